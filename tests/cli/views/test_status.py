"""A status as text."""

from dipaco.cli.views.status import status_text
from tests.node.api.fake_node import status, task


def test_status_in_words_says_what_and_why() -> None:
    text = status_text(status(work=task()))
    for words in (
        "training: path 1 round 1: 12 of 25 steps",
        "demo  id abababab  round 1 of 5  router verified",
        "train path 1 round 1: train 12 of 25  1500 tok/s  loss 4.250",
        "up 1:02:05",
        "(0,1)  round 1  leased  loss 4.250",
        "3 accepted, 1 refused",
    ):
        assert words in text
