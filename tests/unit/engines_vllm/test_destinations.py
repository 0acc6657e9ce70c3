"""Where an engine's connector may send to: only what its operator allows, whatever a request asks for."""

import fnmatch
import ipaddress
import json
import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from predictive_scheduling_vllm.destinations import KEY, Address, Allowed, RefusedError, Wanted, parse_address, wanted

PATTERNS = ["unix:/run/states/*.sock", "unix:/run/*/states.sock", "file:/srv/states", "tcp://10.1.0.0/16:50070",
            "tcp://[fd00::/8]:*", "tcp://127.0.0.1:*"]  # fmt: skip
ALLOWED = Allowed(PATTERNS)
NAME = "0123456789abcdef"


def asked(to="unix:/run/states/a.sock", **more):
    return {KEY: {"id": NAME, "to": to, **more}}


@pytest.mark.parametrize(
    ("to", "address"),
    [
        ("unix:/run/states/a.sock", Address("unix", path="/run/states/a.sock")),
        ("unix:/run/pod-7/states.sock", Address("unix", path="/run/pod-7/states.sock")),
        ("file:/srv/states", Address("file", path="/srv/states")),
        ("tcp://10.1.2.3:50070", Address("tcp", host="10.1.2.3", port=50070)),
        ("tcp://[fd12::1]:9", Address("tcp", host="fd12::1", port=9)),
        ("tcp://[::ffff:127.0.0.1]:9", Address("tcp", host="127.0.0.1", port=9)),
    ],
)
def test_an_allowed_address_is_taken(to, address):
    assert wanted(asked(to, layers=[16]), ALLOWED) == Wanted(NAME, address, (16,))


@pytest.mark.parametrize(
    "to",
    [
        "unix:/run/states/../secret.sock",
        "unix:/run/states/./a.sock",
        "unix:/run/states//a.sock",
        "unix://run/states/a.sock",
        "unix:/run/states/a.sock/",
        "unix:/run/states/deep/a.sock",
        "unix:/run/states/a.sock\0",
        "unix:/run/states/\0.sock",
        "unix:/run/states/\ud800.sock",
        "unix:/run/../states.sock",
        "unix:run/states/a.sock",
        "unix:",
        "unix:/",
        "unix:" + "/a" * 600,
        "file:/srv/states/..",
        "file:/srv/states/deeper",
        "file:/run/states/a.sock",
        "UNIX:/run/states/a.sock",
        " unix:/run/states/a.sock",
        "tcp://10.2.0.1:50070",
        "tcp://10.1.0.1:50071",
        "tcp://[::ffff:10.2.0.1]:50070",
        "tcp://[::1]:50070",
        "tcp://[fd12::1%eth0]:9",
        "tcp://[fd12::1%../../x]:9",
        "tcp://localhost:9",
        "tcp://127.1:9",
        "tcp://2130706433:9",
        "tcp://0x7f.0.0.1:9",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:+9",
        "tcp://127.0.0.1: 9",
        "tcp://127.0.0.1:9 ",
        "tcp://127.0.0.1:1_0",
        "tcp://127.0.0.1:٩",
        "tcp://127.0.0.1:²",
        "tcp://１27.0.0.1:9",
        "tcp://127.0.0.1:" + "9" * 400,
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1",
        "tcp://user@127.0.0.1:9",
        "tcp://127.0.0.1:9/",
        "tcp:127.0.0.1:9",
        "http://127.0.0.1:9",
        "",
        ":",
    ],
)
def test_any_other_address_is_refused(to):
    with pytest.raises(RefusedError):
        wanted(asked(to), ALLOWED)


def test_where_nothing_is_allowed_everything_is_refused():
    for to in ("unix:/run/states/a.sock", "tcp://127.0.0.1:9", "file:/srv/states"):
        with pytest.raises(RefusedError):
            wanted(asked(to), Allowed([]))


def test_a_star_stands_for_no_empty_part_of_a_path():
    with pytest.raises(RefusedError):
        wanted(asked("unix://a.sock"), Allowed(["unix:/*/a.sock"]))


def test_an_ipv4_address_in_ipv6_is_allowed_where_the_ipv4_address_is():
    everywhere = Allowed(["tcp://[::/0]:*"])
    with pytest.raises(RefusedError):
        wanted(asked("tcp://[::ffff:10.0.0.1]:9"), everywhere)


# Pieces that destinations are made of, and what attackers put between them.
PIECES = st.sampled_from(
    ["unix:", "file:", "tcp:", "/", "//", "..", ".", "run", "states", "a.sock", "*", "[", "]", "\0", "%eth0", "@", ":",
     "10.1.0.1", "127.0.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "50070", "9", "٩", "\ud800", " ", "\n", "srv", "~"]
)  # fmt: skip
ADDRESSES = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40) | st.sampled_from(
    ["unix:/run/states/a.sock", "tcp://10.1.0.1:50070", "tcp://[fd00::1]:9", "file:/srv/states"]
)  # fmt: skip


def is_allowed(address):
    """The rule once more, as an operator would say it."""
    if address.kind == "tcp":
        ip = ipaddress.ip_address(address.host)
        return (
            (ip in ipaddress.ip_network("10.1.0.0/16") and address.port == 50070)
            or (ip in ipaddress.ip_network("fd00::/8"))
            or str(ip) == "127.0.0.1"
        ) and 0 < address.port < 65536
    path = address.path
    assert posixpath.normpath(path) == path
    assert path.isprintable() or "\0" not in path
    if address.kind == "file":
        return path == "/srv/states"
    name = path.rpartition("/")[2]
    return (path.count("/") == 3 and fnmatch.fnmatchcase(path, "/run/states/*.sock")) or (
        path.count("/") == 3 and path.startswith("/run/") and name == "states.sock"
    )


@given(ADDRESSES)
@example("unix:/run/states/a.sock\n")
def test_nothing_outside_of_the_patterns_is_ever_accepted(to):
    try:
        found = wanted(asked(to), ALLOWED)
    except RefusedError:
        return
    assert is_allowed(found.address)


@given(ADDRESSES)
def test_an_address_is_one_or_is_refused(text):
    try:
        address = parse_address(text)
    except RefusedError:
        return
    assert address.kind in {"unix", "file", "tcp"}
    assert (address.kind == "tcp") == bool(address.host) == (not address.path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | ADDRESSES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ASKED = st.fixed_dictionaries(
    {}, optional={"id": JSON | st.just(NAME), "to": JSON | ADDRESSES, "layers": JSON | st.lists(st.integers())}
)


@given(JSON | st.fixed_dictionaries({KEY: JSON | ASKED}))
@example({KEY: {"id": NAME, "to": "unix:/run/states/a.sock", "layers": [10**400]}})
@example({KEY: {"id": NAME, "to": "unix:/run/states/a.sock", "layers": [-1]}})
@example({KEY: {"id": NAME, "to": "unix:/run/states/a.sock", "layers": [True]}})
@example({KEY: {"id": NAME, "to": "unix:/run/states/a.sock", "layers": "16"}})
@example({KEY: {"id": NAME, "to": "unix:/run/states/a.sock", "layers": [0] * 65}})
@example({KEY: {"id": NAME + "\n", "to": "unix:/run/states/a.sock"}})
@example({KEY: {"id": "../../../../../etc/x", "to": "file:/srv/states"}})
def test_whatever_a_body_holds_it_is_heeded_refused_or_of_no_interest(parameters):
    try:
        found = wanted(parameters, ALLOWED)
    except RefusedError as error:
        found, said = None, str(error)
    else:
        said = ""
    assert len(said) < 200  # it goes to a log
    assert found is None or isinstance(found, Wanted)
    if found is not None:
        assert is_allowed(found.address)
        assert 16 <= len(found.name) <= 64
        assert found.name.isascii()
        assert set(found.name) <= set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_")
        assert found.layers is None or all(0 <= layer < 10_000 for layer in found.layers)


def test_a_refusal_repeats_nothing_of_the_request():
    with pytest.raises(RefusedError) as caught:
        wanted(asked("unix:/secret\nforged log line"), ALLOWED)
    assert "secret" not in str(caught.value)


def test_no_layers_are_the_number_of_tokens_alone_and_none_are_all():
    assert wanted(asked(layers=[]), ALLOWED).layers == ()
    assert wanted(asked(), ALLOWED).layers is None
    assert wanted(json.loads(json.dumps(asked(layers=[1, 2]))), ALLOWED).layers == (1, 2)


@pytest.mark.parametrize(
    "patterns",
    [
        "unix:/run/states.sock",
        [1],
        ["/run/states.sock"],
        ["unix:run"],
        ["unix:/run/../x"],
        ["tcp://10.0.0.0/8"],
        ["tcp://10.0.0.0/8:0"],
        ["tcp://10.0.0.0/8:70000"],
        ["tcp://10.0.0.0/33:1"],
        ["tcp://engine:1"],
        ["http://10.0.0.1:1"],
    ],
)
def test_a_pattern_that_is_none_is_an_error_of_the_operator(patterns):
    with pytest.raises(ValueError, match="destinations: "):
        Allowed(patterns)
