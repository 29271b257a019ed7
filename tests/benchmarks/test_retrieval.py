"""MaxSim for retrieval beside other packages: what is timed is held to float64."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.retrieval import OWN, Case, Peer, figure, own_tokens, peers, run, table

SMALL = Case("small", 2, 4, 12, 25, ragged=True)


def test_a_peer_that_is_wrong_or_fails_is_seen() -> None:
    own, wrong = next(peers()), Peer("wrong", lambda q, d: -next(peers()).score(q, d))

    def fails(q: object, d: object) -> None:
        raise RuntimeError("no such product")

    rows = [run(SMALL, peer, 0.001) for peer in (own, wrong, Peer("fails", fails))]
    assert rows[0].peer == OWN and rows[0].error < 1e-6 and rows[0].overlap == 1
    assert rows[1].error > 1 and rows[1].overlap < 1
    assert "no such product" in rows[2].failure
    assert "| fails | RuntimeError: no such product | | | |" in table(rows)


def test_training_takes_gradients() -> None:
    rows = [run(replace(SMALL, ragged=False, trains=True), p, 0.001) for p in [next(peers())]]
    assert rows[0].timing is not None


def test_the_figure_has_a_bar_for_each_peer_that_was_timed() -> None:
    rows = [
        run(replace(SMALL, name=name), peer, 0.001)
        for name in ("one", "two")
        for peer in peers()
        if peer.name in (OWN, "einsum")
    ]
    failed = replace(rows[1], peer="other, with what is peculiar", timing=None, failure="no")
    panels = figure([*rows, failed, replace(rows[1], peer="third, slow")]).axes
    names = [[tick.get_text() for tick in panel.get_yticklabels()] for panel in panels]
    assert sorted(names[0]) == ["einsum", "third"] and names[1] == ["einsum"]
    assert [len(panel.patches) for panel in panels] == [2, 1]


def test_ragged_documents_are_timed_beside_as_many_tokens_of_one_size() -> None:
    case = Case("ragged", 2, 4, 6, 30, ragged=True, width=8)
    own = own_tokens(case, 2)
    tokens = sum(map(len, case.inputs()[1]))
    expected = own.ragged / tokens / (own.dense / (6 * round(tokens / 6)))
    assert own.ratio == pytest.approx(expected) and f"{own.ratio:.2f} times" in str(own)
