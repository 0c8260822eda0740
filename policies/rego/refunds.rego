# Who may refund an order of the shop, and how much. Istio's language compares fields with values that stand in the
# policy; this compares fields with each other: the amount in the body with the limit of the role in the end user's token.
package shop.refunds

default allow := false

# The path is /orders/<id>/refund and nothing else: what is no segment of its own is no number either.
is_refund if {
    input.attributes.request.http.method == "POST"
    [part, id, act] := input.parsed_path
    part == "orders"
    act == "refund"
    regex.match(`^[0-9]{1,12}$`, id)
}

# Verified by Gatehouse; a token that was only sent along is not here.
roles := {role | some role in input.gatehouse.claims.roles}

# The limit of one of the roles is enough; without a role there is none.
is_within_limit if {
    some role in roles
    input.parsed_body.amount <= data.shop.refunds.limits[role]
}

allow if {
    is_refund
    endswith(input.gatehouse.principal, "/ns/shop/sa/backoffice")
    input.truncated_body == false
    is_number(input.parsed_body.amount)
    input.parsed_body.amount > 0
    is_within_limit
}

# The document of opa-envoy-plugin: what is told to the service, and to a client that is refused.
decision := {"allowed": true, "headers": {"x-refund-roles": concat(",", roles)}} if allow

decision := {
    "allowed": false,
    "http_status": 403,
    "headers": {"content-type": "application/json"},
    "body": json.marshal({"error": reason}),
    "dynamic_metadata": {"refund_reason": reason},
} if not allow

default reason := "this needs the back office, a role, and an amount"

reason := "only refunds go this way" if not is_refund

reason := "the amount is above your limit" if {
    is_refund
    count(roles) > 0
    is_number(input.parsed_body.amount)
    not is_within_limit
}
