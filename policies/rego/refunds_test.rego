package shop.refunds_test

import data.shop.refunds

limits := {"clerk": 50, "manager": 1000}

request(path, roles, amount) := {
    "attributes": {"request": {"http": {"method": "POST", "path": path}}},
    "parsed_path": split(trim_left(path, "/"), "/"),
    "parsed_body": {"amount": amount},
    "truncated_body": false,
    "gatehouse": {
        "principal": "spiffe://cluster.local/ns/shop/sa/backoffice",
        "claims": {"roles": roles},
    },
}

test_a_clerk_refunds_a_little if {
    refunds.allow with input as request("/orders/7/refund", ["clerk"], 50) with data.shop.refunds.limits as limits
}

test_a_clerk_does_not_refund_much if {
    decision := refunds.decision with input as request("/orders/7/refund", ["clerk"], 51)
        with data.shop.refunds.limits as limits
    decision.allowed == false
    decision.dynamic_metadata.refund_reason == "the amount is above your limit"
}

test_the_largest_limit_holds if {
    decision := refunds.decision with input as request("/orders/7/refund", ["clerk", "manager"], 900)
        with data.shop.refunds.limits as limits
    decision == {"allowed": true, "headers": {"x-refund-roles": "clerk,manager"}}
}

test_other_paths_are_refused if {
    every path in ["/orders/7", "/orders/7/refund/x", "/orders/7x/refund", "/orders//refund"] {
        not refunds.allow with input as request(path, ["manager"], 1) with data.shop.refunds.limits as limits
    }
}

test_who_has_no_role_has_no_limit if {
    not refunds.allow with input as request("/orders/7/refund", [], 1) with data.shop.refunds.limits as limits
}

test_half_a_body_is_none if {
    cut := object.union(request("/orders/7/refund", ["manager"], 1), {"truncated_body": true})
    not refunds.allow with input as cut with data.shop.refunds.limits as limits
}
