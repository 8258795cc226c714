"""Tokens: what is stored, who gets in, and where the service may listen."""

import sqlite3
from pathlib import Path

import pytest
from helpers.command_line import call

from atgen_ray.core.errors import UserError
from atgen_ray.serving.security.tokens import Tokens, check_address, is_loopback
from atgen_ray.store.database import Database


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "atgen.db"


@pytest.fixture
def tokens(file: Path) -> Tokens:
    return Tokens(Database(f"sqlite:///{file}"))


def test_a_token_lets_its_role_in_until_it_is_revoked(tokens: Tokens) -> None:
    admin, annotator = tokens.create("admin", "ops"), tokens.create("annotator")
    caller = tokens.identify(admin)
    assert caller is not None
    assert caller.role == "admin"
    assert tokens.identify(annotator).role == "annotator"  # type: ignore[union-attr]
    assert [row["label"] for row in tokens.list()] == ["ops", ""]
    tokens.revoke(caller.id)
    assert tokens.identify(admin) is None
    assert tokens.identify(annotator) is not None


@pytest.mark.parametrize(
    "change", ["", "x", "atgen", "atgen_", "atgen__", "\0", "\ud800", "bearer"]
)
def test_what_is_no_token_lets_nobody_in(tokens: Tokens, change: str) -> None:
    token = tokens.create("admin")
    prefix, id_, secret = token.split("_", 2)
    assert tokens.identify(change) is None
    assert tokens.identify(token + change) is None or not change
    assert tokens.identify(f"{prefix}_{id_}_{change}") is None
    assert tokens.identify(f"other_{id_}_{secret}") is None
    assert tokens.identify(f"{prefix}_{'0' * 8}_{secret}") is None


def test_the_database_never_sees_a_token(tokens: Tokens, file: Path) -> None:
    secret = tokens.create("admin").split("_", 2)[2]
    sqlite3.connect(file).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert secret.encode() not in file.read_bytes()


def test_an_unknown_role_or_token_is_named(tokens: Tokens) -> None:
    with pytest.raises(UserError, match="did you mean 'admin'"):
        tokens.create("admim")
    with pytest.raises(UserError, match="token 'nobody' is unknown"):
        tokens.revoke("nobody")


def test_a_public_address_needs_a_token_first(tokens: Tokens) -> None:
    check_address("127.0.0.1", tokens)
    with pytest.raises(UserError, match="there is no token yet"):
        check_address("0.0.0.0", tokens)
    tokens.create("annotator")
    with pytest.raises(UserError, match="there is no token yet"):
        check_address("my-host", tokens)
    tokens.create("admin")
    check_address("0.0.0.0", tokens)


def test_which_addresses_are_of_this_machine_alone() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(
        map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example"])
    )


def test_the_command_line_makes_lists_and_revokes_tokens(tmp_path: Path) -> None:
    at = ["--storage", str(tmp_path)]
    made = call("token", "create", "--role", "annotator", "--label", "Ana", *at)
    assert made.status == 0
    token = made.out.strip()
    id_ = token.split("_")[1]
    assert Tokens(Database(f"sqlite:///{tmp_path}/atgen.db")).identify(token) is not None
    listed = call("token", "list", *at)
    assert "Ana" in listed.out
    assert token not in listed.out
    assert call("token", "revoke", id_, *at).status == 0
    assert call("token", "revoke", "nobody", *at).status == 2


def test_serve_refuses_a_public_address_without_a_token(tmp_path: Path) -> None:
    refused = call("serve", "--host", "0.0.0.0", "--storage", str(tmp_path))
    assert refused.status == 2
    assert refused.err.count("\n") == 1
    assert "there is no token yet" in refused.err
