"""Which error of a nursery's groups is told, and what counts as Ctrl-C."""

import pytest

from dipaco.cli.exits import Exit, code_of, expected, interrupted
from dipaco.protocol.errors import NoDevice, Refusal, Unavailable


def test_the_first_error_of_groups_is_told_if_all_are_ours() -> None:
    inner = ExceptionGroup("inner", [Refusal("first"), Unavailable("second")])
    told = expected(ExceptionGroup("outer", [inner, NoDevice("third")]))
    assert isinstance(told, Refusal) and code_of(told) == Exit.REFUSED
    assert expected(ExceptionGroup("outer", [inner, ValueError("a bug")])) is None


def test_ctrl_c_is_found_in_groups_causes_and_contexts() -> None:
    stopped = KeyboardInterrupt()
    assert interrupted(BaseExceptionGroup("group", [ValueError(), stopped]))
    caused, met = ValueError(), OSError()
    caused.__cause__ = stopped
    met.__context__ = caused
    assert interrupted(ExceptionGroup("group", [met]))
    assert not interrupted(ValueError())


def test_an_error_whose_context_is_its_own_group_is_looked_at_once() -> None:
    """As trio leaves it when a nursery is left by an error of one of its tasks."""
    refusal = Refusal("wrong router")
    with pytest.raises(ExceptionGroup) as raised:
        try:
            raise ExceptionGroup("group", [refusal])
        except ExceptionGroup as group:
            refusal.__context__ = group
            raise
    assert not interrupted(raised.value)
    assert expected(raised.value) is refusal
