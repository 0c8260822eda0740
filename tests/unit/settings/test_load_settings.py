"""Settings from defaults, a file and the environment, and what is said about what cannot be."""

import json
from pathlib import Path

import pytest

from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.settings import Role, describe, load_settings, reveal


def _write(directory: Path, text: str) -> Path:
    file = directory / "gatehouse.yaml"
    file.write_text(text)
    return file


def test_the_first_run_needs_no_configuration(tmp_path: Path) -> None:
    """Without a file and variables every setting has a value that works, on loopback."""
    settings = load_settings(environ={}, state_dir=tmp_path)
    assert Role.ALL == settings.role
    assert Limits() == settings.limits
    assert f"sqlite:///{tmp_path}/gatehouse.db" == settings.database_url
    assert all(
        listener.is_loopback
        for listener in (settings.listen.ca, settings.listen.api, settings.listen.link, settings.listen.check)
    )
    assert settings.workers >= 1


def test_the_environment_is_on_top_of_the_file_and_the_command_line_on_top_of_both(tmp_path: Path) -> None:
    """Each source changes only what it names."""
    file = _write(
        tmp_path,
        "trust_domain: from.file\nworkers: 2\nlisten: {api: {port: 1}}\nlimits: {certificate: {max_ttl_seconds: 90000}}\n",
    )
    environ = {
        "GATEHOUSE_WORKERS": "3",
        "GATEHOUSE_LIMITS__CERTIFICATE__MIN_TTL_SECONDS": "600",
        "GATEHOUSE_LISTEN__API__ADDRESS": "127.0.0.2",
        "GATEHOUSE_TOKENS__TRUSTED_NODE_ACCOUNTS": '["a/b"]',
    }
    settings = load_settings(file, environ, workers=4)
    assert "from.file" == settings.trust_domain
    assert 4 == settings.workers
    assert (90_000, 600) == (settings.limits.certificate.max_ttl_seconds, settings.limits.certificate.min_ttl_seconds)
    assert Limits().ca_grpc == settings.limits.ca_grpc
    assert ("127.0.0.2", 1) == (settings.listen.api.address, settings.listen.api.port)
    assert 15_012 == settings.listen.ca.port
    assert ("a/b",) == settings.tokens.trusted_node_accounts


def test_the_configuration_file_can_be_named_by_a_variable(tmp_path: Path) -> None:
    """GATEHOUSE_CONFIG is `--config`."""
    file = _write(tmp_path, "trust_domain: from.variable\n")
    assert "from.variable" == load_settings(environ={"GATEHOUSE_CONFIG": str(file)}).trust_domain


def test_secrets_can_stand_in_files_and_are_never_shown(tmp_path: Path) -> None:
    """The `_file` twin of a secret is read; what is printed holds no secret."""
    secret = tmp_path / "url"
    secret.write_text("postgresql://gatehouse:hunter2@db/gatehouse\n")
    settings = load_settings(
        environ={"GATEHOUSE_DATABASE__URL_FILE": str(secret), "GATEHOUSE_KEYS__PASSPHRASE": "correct horse battery"}
    )
    assert "postgresql://gatehouse:hunter2@db/gatehouse" == settings.database_url
    shown = json.dumps(describe(settings)) + repr(settings)
    assert "hunter2" not in shown
    assert "correct horse" not in shown


def test_settings_survive_the_way_to_a_child_process() -> None:
    """What the supervisor hands over is what the child reads, secrets included; a worker gets none of ours."""
    settings = load_settings(
        environ={"GATEHOUSE_DATABASE__URL": "postgresql://u:p@h/d", "GATEHOUSE_KEYS__PASSPHRASE": "a passphrase"}
    )
    assert settings.model_dump() == load_settings(environ={}, **json.loads(json.dumps(reveal(settings)))).model_dump()
    worker = settings.for_local_worker(link_url="http://127.0.0.1:1", token="t", public_key="k")
    handed_over = json.dumps(reveal(worker))
    assert "postgresql" not in handed_over
    assert "a passphrase" not in handed_over
    assert load_settings(environ={}, **json.loads(handed_over)).model_dump() == worker.model_dump()


BROKEN_FILES = {
    "unknown key": ("statedir: /x", "statedir is not known; did you mean state_dir?"),
    "unknown nested key": (
        "limits: {certificate: {max_ttl: 1}}",
        "limits.certificate.max_ttl is not known; did you mean limits.certificate.max_ttl_seconds?",
    ),
    "a key twice": ("workers: 1\nworkers: 2", "'workers' stands there twice"),
    "aliases": ("a: &x 1\nb: *x", "aliases are not accepted"),
    "a tag": ("workers: !!python/object/apply:os.system ['true']", "is not YAML"),
    "not a mapping": ("- 1", "must be a mapping"),
    "not YAML": ("{", "is not YAML"),
    "wrong type": ("workers: many", "workers: "),
    "no worker": ("workers: 0", "workers: "),
    "unknown role": ("role: everything", "role: "),
    "bad trust domain": ("trust_domain: Not_Lower", "trust_domain: "),
    "port too large": ("listen: {api: {port: 70000}}", "listen.api.port: "),
    "a host name to listen on": ("listen: {api: {address: localhost}}", "must be an IP address"),
    "one port twice": ("listen: {api: {port: 9000}, link: {port: 9000}}", "are both 9000"),
    "API off loopback without TLS": ("listen: {api: {address: 0.0.0.0}}", "which needs TLS"),
    "link off loopback without TLS": ("listen: {link: {address: '::'}}", "which needs TLS"),
    "checks off loopback without authentication": ("listen: {check: {address: 0.0.0.0}}", "behind_ztunnel"),
    "ztunnel in front of loopback": ("check: {behind_ztunnel: true}", "on loopback"),
    "HTTP checks off loopback without TLS": ("listen: {check_http: {address: 0.0.0.0}}", "check.http.mutual_tls"),
    "a dialect that may be taken for the other": ("check: {http: {envoy_prefix: ''}}", "a client could choose"),
    "a prefix within a prefix": ("check: {http: {nginx_prefix: /envoy/nginx}}", "a client could choose"),
    "no dialect": ("check: {http: {envoy_prefix: null, nginx_prefix: null}}", "nobody can ask"),
    "a prefix that ends in a slash": ("check: {http: {envoy_prefix: /envoy/}}", "without a slash at its end"),
    "a header that is none": ("check: {http: {identity_header: 'x y'}}", "must be the name of a header"),
    "a header for two things": ("check: {http: {identity_header: x, source_header: X}}", "named for two things"),
    "auth_request without its path": ("check: {http: {uri_header: ''}}", "auth_request needs"),
    "half of the TLS files": ("tls: {key_file: /x}", "one of them is missing"),
    "secret twice": ("keys: {passphrase: x, passphrase_file: /y}", "exclude each other"),
    "limit of zero": ("limits: {http: {max_connections: 0}}", "limits.http.max_connections: must be greater than 0"),
    "limit without end": ("limits: {check: {long_poll_seconds: .inf}}", "limits.check.long_poll_seconds: must be a n"),
    "limit that is no number": ("limits: {check: {long_poll_seconds: .nan}}", "must be a number that is finite"),
    "other database": ("database: {url: 'mysql://u:p@h/d'}", "database.url: must read sqlite:///"),
    "keys from a file URL": (
        "tokens: {issuers: [{name: k, issuer: 'https://k', jwks_url: 'file:///etc/keys'}]}",
        "tokens.issuers.0.jwks_url: must start with https://",
    ),
    "keys over plain http": (
        "tokens: {issuers: [{name: k, issuer: 'https://k', jwks_url: 'http://127.0.0.1.example/keys'}]}",
        "plain http only to loopback",
    ),
    "parent in files without a folder": ("ca: {parent: {kind: files}}", "kind files needs the directory"),
    "two online parents": (
        "ca: {parent: {kind: upstream, vault: {url: 'https://v'}, drop: {directory: /d}}}",
        "exactly one of vault.url and drop.directory",
    ),
    "online parent without a login": (
        "ca: {parent: {kind: upstream, vault: {url: 'https://v'}}}",
        "vault.auth needs exactly one of",
    ),
    "AppRole without its secret": (
        "ca: {parent: {kind: upstream, vault: {url: 'https://v', auth: {approle_role_id: r}}}}",
        "needs approle_secret_id_file",
    ),
    "online parent over plain http": (
        "ca: {parent: {kind: upstream, vault: {url: 'http://v', auth: {token_file: /t}}}}",
        "ca.parent.vault.url: must start with https://",
    ),
    "peer that is not pinned": ("ca: {peers: [{name: e, url: 'https://e'}]}", "needs pins, or trust: https_web"),
    "peer from nowhere": ("ca: {peers: [{name: e, trust: https_web}]}", "exactly one of url and file"),
    "peer with a bad pin": ("ca: {peers: [{name: e, url: 'https://e', pins: [abc]}]}", "64 hexadecimal digits"),
    "peer of another trust domain": (
        "ca: {peers: [{name: e, url: 'https://e', trust: https_web, trust_domain: other.example}]}",
        "ca.peers.0.trust_domain: 'other.example' is not ours (cluster.local)",
    ),
    "peer twice": (
        "ca: {peers: [{name: e, url: 'https://e', trust: https_web}, {name: e, url: 'https://f', trust: https_web}]}",
        "ca.peers.1.name: 'e' is there twice",
    ),
    "peer over plain http": (
        "ca: {peers: [{name: e, url: 'http://e', trust: https_web}]}",
        "ca.peers.0.url: must start with https://",
    ),
    "link over plain http": (
        "{role: decision, link: {url: 'http://127.0.0.1.example:8081', token: t, public_key: k}}",
        "link.url: must start with https://",
    ),
    "negative limit": ("limits: {ca_grpc: {max_message_bytes: -1}}", "must be greater than 0"),
    "TTLs out of order": ("limits: {certificate: {max_ttl_seconds: 3600}}", "ascending order"),
    "TTL below the backdate": ("limits: {certificate: {min_ttl_seconds: 200}}", "tight loop"),
    "steps judged before certificates are on record": (
        "limits: {certificate: {max_job_seconds: 60}}",
        "limits.authority.settle_seconds: must be more than",
    ),
    "an issuing authority that outlives its root": ("authorities: {root_days: 300}", "nothing outlives its root"),
    "an issuing authority that can never be activated": ("authorities: {issuing_days: 200}", "must be more than 270"),
    "a quiet cluster's pods are too old": (
        "limits: {kubernetes: {pods_max_age_seconds: 240}}",
        "in which nothing happens",
    ),
    "a quiet cluster's services are too old": (
        "limits: {kubernetes: {services_max_age_seconds: 240}}",
        "limits.kubernetes.services_max_age_seconds: must be more than relist_seconds and stall_seconds together (240)",
    ),
    "drain ends before it begins": ("limits: {process: {drain_max_seconds: 4}}", "greater than drain_min_seconds"),
    "connections older than the drain": (
        "limits: {check_grpc: {max_connection_age_seconds: 60}}",
        "limits.check_grpc.max_connection_age_seconds: must be at most",
    ),
    "silent for less than a heartbeat": ("limits: {process: {heartbeat_timeout_seconds: 0.6}}", "twice heartbeat"),
    "issuer without keys": ("tokens: {issuers: [{name: k, issuer: 'https://k'}]}", "exactly one of jwks_file and jwks"),
    "bad node account": ("tokens: {trusted_node_accounts: [ztunnel]}", "must be NAMESPACE/SERVICE-ACCOUNT"),
    "key host with a scheme": ("tokens: {key_hosts: [{host: 'https://keycloak'}]}", "without scheme and port"),
    "any key host": ("tokens: {key_hosts: [{host: '*'}]}", "without scheme and port"),
    "decision role without a link": ("role: decision", "link.url: "),
    "decision role over plain http": ("role: decision\nlink: {url: 'http://gatehouse:8081'}", "must start with https"),
    "decision role without a token": ("role: decision\nlink: {url: 'https://gatehouse:8081'}", "link.token_file: "),
    "decision role without a key": ("role: decision\nlink: {url: 'https://a:1', token: t}", "link.public_key: "),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_case_125_a_broken_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Whatever is wrong, one line names the setting and what would be right."""
    text, expected = BROKEN_FILES[name]
    with pytest.raises(AppError) as refusal:
        load_settings(_write(tmp_path, text), {})
    assert ErrorCode.INVALID == refusal.value.code
    assert expected in refusal.value.detail
    assert "\n" not in refusal.value.detail


def test_a_turn_that_comes_after_the_budget_of_the_call_is_refused(tmp_path: Path) -> None:
    """Who waits for its turn must have time left to be served."""
    with pytest.raises(AppError) as refusal:
        load_settings(_write(tmp_path, "limits: {admission: {max_wait_seconds: 10}}"), {})
    assert "limits.admission.max_wait_seconds" in refusal.value.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ledger: {mode: available}", "bridges the absence of a database server"),
        ("ledger: {mode: sometimes}", "ledger.mode"),
        ("ledger: {max_away_seconds: 0}", "ledger.max_away_seconds"),
        (
            "ledger: {mode: available, max_away_seconds: 3000}\ndatabase: {url: 'postgresql://x/y'}",
            "limits.authority.lease_seconds: must be at least 4500",
        ),
        (
            "ledger: {mode: available}\ndatabase: {url: 'postgresql://x/y'}\nlimits: {journal: {patience_seconds: 5}}",
            "limits.journal.patience_seconds",
        ),
    ],
)
def test_a_ledger_that_cannot_keep_its_promise_is_refused(text: str, says: str, tmp_path: Path) -> None:
    """Mode `available` needs a database that can be away, and other bounds that let it last."""
    with pytest.raises(AppError) as refusal:
        load_settings(_write(tmp_path, text), {})
    assert says in refusal.value.detail


def test_in_mode_available_placement_stays_fresh_for_as_long_as_the_database_may_be_away(tmp_path: Path) -> None:
    """Otherwise issuing would end after a minute all the same; mode strict keeps the shorter bound."""
    available = "ledger: {mode: available}\ndatabase: {url: 'postgresql://x/y'}"
    assert 1_800 == load_settings(_write(tmp_path, available), {}).inventory_max_age_seconds
    assert 60 == load_settings(environ={}).inventory_max_age_seconds


BROKEN_ENVIRONMENTS = {
    "GATEHOUSE_STATEDIR": ("x", "did you mean GATEHOUSE_STATE_DIR?"),
    "GATEHOUSE_LIMITS__CERTIFICATE__MAX_TTL": ("1", "did you mean GATEHOUSE_LIMITS__CERTIFICATE__MAX_TTL_SECONDS?"),
    "GATEHOUSE_WORKERS__COUNT": ("1", "did you mean GATEHOUSE_WORKERS?"),
    "GATEHOUSE_TOKENS__ISSUERS": ("[not json", "tokens"),
    "GATEHOUSE_LINK__TOKEN_FILE": ("/nowhere/token", "cannot read /nowhere/token"),
}


@pytest.mark.parametrize("name", BROKEN_ENVIRONMENTS)
def test_case_125_a_broken_environment_is_refused_in_one_line(name: str) -> None:
    """Variables with our prefix are held to the same keys as the file."""
    value, expected = BROKEN_ENVIRONMENTS[name]
    with pytest.raises(AppError) as refusal:
        assert load_settings(environ={name: value}).link_token
    assert expected in refusal.value.detail
    assert "\n" not in refusal.value.detail


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path and the system's reason are in the sentence."""
    with pytest.raises(AppError, match=r"cannot read .*absent\.yaml: No such file"):
        load_settings(tmp_path / "absent.yaml", {})


def test_variables_of_others_are_left_alone() -> None:
    """Only our prefix is ours, and not even that where Kubernetes describes a Service of our name."""
    environ = {
        "PATH": "/bin",
        "GATEHOUSE_CONTEXT": "/x",
        "GATEHOUSE_SERVICE_HOST": "10.0.0.1",
        "GATEHOUSE_SERVICE_PORT_GRPC_CA": "15012",
        "GATEHOUSE_PORT": "tcp://10.0.0.1:15012",
        "GATEHOUSE_PORT_15012_TCP_ADDR": "10.0.0.1",
        "GATEHOUSE_LINK_SERVICE_HOST": "10.0.0.2",
    }
    assert Role.ALL == load_settings(environ=environ).role
    with pytest.raises(AppError, match="GATEHOUSE_LISTEN__APIX__PORT is not known"):
        load_settings(environ={"GATEHOUSE_LISTEN__APIX__PORT": "1"})


def _cluster_error(tmp_path: Path, text: str) -> str:
    with pytest.raises(AppError) as caught:
        load_settings(_write(tmp_path, text), environ={})
    assert ErrorCode.INVALID is caught.value.code
    return caught.value.detail


def test_a_cluster_with_an_api_server_uses_it_for_tokens_and_inventory(tmp_path: Path) -> None:
    """One line is enough inside of a cluster; each part can be had otherwise."""
    file = _write(
        tmp_path,
        "clusters:\n"
        "- {name: Kubernetes, kubernetes: {in_cluster: true}, issuer: 'https://here.example'}\n"
        "- {name: east, aliases: [e], kubernetes: {kubeconfig: /k}, tokens: jwks, inventory: database}\n"
        "- {name: west, inventory: file, inventory_file: /i}\n",
    )
    local, east, west = load_settings(file, environ={}).clusters
    assert ("review", "kubernetes") == (local.tokens, local.inventory)
    assert ("jwks", "database", "https://kubernetes.default.svc.cluster.local") == (
        east.tokens,
        east.inventory,
        east.token_issuer,
    )
    assert ("none", "file", Path("/i")) == (west.tokens, west.inventory, west.inventory_file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clusters: [{name: a, tokens: review}]", "set kubernetes"),
        ("clusters: [{name: a, inventory: file}]", "belong together"),
        ("clusters: [{name: a, inventory_file: /i}]", "belong together"),
        ("clusters: [{name: a, kubernetes: {}}]", "exactly one of"),
        ("clusters: [{name: a, kubernetes: {in_cluster: true, server: 'https://x'}}]", "exactly one of"),
        ("clusters: [{name: a, kubernetes: {in_cluster: true, context: c}}]", "context belongs"),
        ("clusters: [{name: a, kubernetes: {kubeconfig: /k, token_file: /t}}]", "belong to server"),
        (
            "clusters: [{name: Kubernetes, kubernetes: {server: 'http://10.0.0.1'}}]",
            "clusters.0.kubernetes.server: must start",
        ),
        ("clusters: [{name: a}, {name: a}]", "is there twice"),
        ("clusters: [{name: a, aliases: [b]}, {name: b}]", "'b' is a name of cluster 'a' already"),
        ("clusters: [{name: a, aliases: [Kubernetes]}]", "is a name of cluster 'Kubernetes' already"),
        ("clusters: [{name: a/b}]", "without '/'"),
        ("clusters: [{name: east, kubernetes: {kubeconfig: /k}}]", "clusters.0.issuer: must name the iss"),
        (
            "clusters: [{name: Kubernetes, kubernetes: {in_cluster: true}}, {name: east}]",
            "clusters.0.issuer: must name the iss",
        ),
        (
            (
                "clusters: [{name: Kubernetes, kubernetes: {in_cluster: true}, issuer: i}, "
                "{name: east, kubernetes: {kubeconfig: /k}, issuer: i}]"
            ),
            "clusters.1.issuer: 'i' is that of cluster 'Kubernetes', too",
        ),
        ("tokens: {issuers: [{name: i, issuer: x, jwks_file: /j, cluster: nowhere}]}", "is no cluster"),
        ("inventory: {file: /i}\nclusters: [{name: Kubernetes, kubernetes: {in_cluster: true}}]", "says already where"),
    ],
)
def test_clusters_that_do_not_fit_together_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """Each with the sentence that names the setting."""
    assert says in _cluster_error(tmp_path, text + "\n")
