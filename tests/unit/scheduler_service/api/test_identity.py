"""Who calls: tokens and certificates name the tenant, and nobody speaks for another."""

import pytest

from scheduler_service.api.identity import Identity, read_tokens
from scheduler_service.domain import PermissionDeniedError, UnauthenticatedError


@pytest.fixture
def by_token(tmp_path):
    (tmp_path / "tokens").write_text("# who may call\n\nsecret-1 gold\nsecret-2 free\n")
    return Identity(read_tokens(tmp_path / "tokens"))


def test_a_token_names_its_tenant(by_token):
    assert by_token.tenant("Bearer secret-1", "", "") == "gold"
    assert by_token.tenant("bearer  secret-2 ", "", "free") == "free"


@pytest.mark.parametrize(
    "authorization", ["", "secret-1", "Bearer", "Bearer ", "Basic secret-1", "Bearer secret", "Bearer \udcff"]
)
def test_without_a_known_token_nobody_is_let_in_whatever_the_certificate_says(by_token, authorization):
    with pytest.raises(UnauthenticatedError) as caught:
        by_token.tenant(authorization, "gold", "gold")
    assert "secret" not in str(caught.value)


def test_nobody_speaks_for_another(by_token):
    with pytest.raises(PermissionDeniedError, match=r"job\.tenant: 'gold'"):
        by_token.tenant("Bearer secret-2", "", "gold")
    with pytest.raises(PermissionDeniedError, match="'gold'"):
        Identity(by_certificate=True).tenant("", "free", "gold")


def test_a_certificate_names_its_tenant_where_there_are_no_tokens():
    assert Identity(by_certificate=True).tenant("Bearer whatever", "gold", "") == "gold"


def test_where_nobody_has_an_identity_callers_are_believed():
    assert Identity().tenant("", "", "anybody") == "anybody"
    assert not Identity().known
    assert Identity(by_certificate=True).known


@pytest.mark.parametrize(
    ("text", "words"),
    [("a gold\nb\n", "line 2: must be"), ("a b c", "line 1: must be"), ("# nobody\n", "holds no token")],
)
def test_a_faulty_file_is_refused_by_line_and_without_its_tokens(tmp_path, text, words):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"auth_tokens: .*{words}"):
        read_tokens(path)
    with pytest.raises(ValueError, match=r"auth_tokens: .*: No such file"):
        read_tokens(tmp_path / "nowhere")


def test_tokens_are_not_kept_as_they_are(by_token):
    assert not any(b"secret" in digest for digest in by_token.tokens)
    assert "secret" not in repr(by_token)
