"""Time MaxSim for retrieval beside the field's packages: the table of docs/retrieval.md.

python -m benchmarks.retrieval --threads 2

Every peer gets the same unit tokens. What it says is held to float64: the largest error of a score,
and how many of the best ten of each query it finds (of documents drawn at random, whose scores lie
close together). Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import results
from benchmarks.peak import Peak
from benchmarks.peers import Unusable, use_threads
from benchmarks.plots import GAP, bars_of_cases
from benchmarks.timing import Timing, measure
from emergence_ext import late_interaction, ops
from emergence_ext.figures.style import PAGE, new_figure, styled

BEST: Final = 10
OWN: Final = "emergence_ext"
TURNS: Final = 25  # of ragged documents and of as many tokens in documents of one size


@dataclass(frozen=True)
class Case:
    """Queries of `tokens`, documents of `room` or of 20 to `room` tokens, forward or training."""

    name: str
    queries: int
    tokens: int
    documents: int
    room: int
    ragged: bool = False
    trains: bool = False
    width: int = 128

    def inputs(self) -> tuple[Tensor, list[Tensor]]:
        """Queries `[queries, tokens, width]` and documents, unit tokens."""
        generator = torch.Generator().manual_seed(0)
        lengths = torch.full((self.documents,), self.room)
        if self.ragged:
            lengths = torch.randint(20, self.room + 1, lengths.shape, generator=generator)

        def unit(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, self.width, generator=generator)
            return torch.nn.functional.normalize(drawn, dim=-1)

        return unit(self.queries, self.tokens), [unit(n) for n in lengths.tolist()]


CASES: Final = (
    Case("rerank 1 x 100", 1, 32, 100, 180),
    Case("rerank 1 x 1,000", 1, 32, 1000, 180),
    Case("batch 64 x 64 tokens, 32 x 180", 64, 64, 32, 180),
    Case("ColPali 4 x 20, 50 x 1,030", 4, 20, 50, 1030),
    Case("ragged 32 x 32, 200 x 20 to 180", 32, 32, 200, 180, ragged=True),
    Case("training 32 x 32, 32 x 180", 32, 32, 32, 180, trains=True),
)

Score = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Peer:
    """A package's way: documents made ready once, then what is timed.

    Attributes:
        name: with what is peculiar to it.
        score: of queries and documents as `ready` gives them, `[queries, documents]`.
        ready: of a padded batch, or a list where sets are of different sizes.
        trains: whether it has gradients.
    """

    name: str
    score: Score
    ready: Callable[[Any], Any] = lambda x: x
    trains: bool = True


def peers() -> Iterator[Peer]:
    """Those that are installed, this package's own first."""
    yield Peer(OWN, late_interaction.maxsim)
    yield Peer('emergence_ext, "medium"', _medium, trains=False)
    yield Peer('emergence_ext, documents in bfloat16, "medium"', _medium, _bfloat16, trains=False)
    yield Peer('emergence_ext, documents in int8, "medium"', _of_bytes, _bytes, trains=False)
    yield Peer("einsum", _einsum)
    try:
        from sentence_transformers.util import maxsim

        yield Peer("sentence-transformers", maxsim)
    except ImportError:
        pass
    try:
        from pylate.scores import colbert_scores

        yield Peer("PyLate", lambda q, d: colbert_scores(q, *_padded(d)))
    except ImportError:
        pass
    try:
        from colpali_engine.utils.processing_utils import BaseVisualRetrieverProcessor as Processor

        def score(q: Tensor, d: Any) -> Tensor:
            return Processor.score_multi_vector(list(q), list(d), device="cpu")

        yield Peer("colpali-engine", score, trains=False)
    except ImportError:
        pass
    try:
        import maxsim_cpu

        def fast(q: Any, d: Any) -> Tensor:
            if q.shape[1] > 32 or max(map(len, d)) > 180:
                raise Unusable("larger products go to a BLAS that its wheel lacks: a crash")
            if isinstance(d, list):
                rows = [maxsim_cpu.maxsim_scores_variable(each.numpy(), d) for each in q]
            else:
                rows = [maxsim_cpu.maxsim_scores(each.numpy(), d) for each in q]
            return torch.stack([torch.as_tensor(row) for row in rows])

        yield Peer("maxsim-cpu", fast, _arrays, trains=False)
    except ImportError:
        pass
    try:
        import numkong

        def packed(q: Tensor, d: Any) -> Tensor:
            packs = [numkong.maxsim_pack(each.numpy(), dtype="f32") for each in q]
            # It sums angular distances, 1 - <q, d> of unit tokens.
            scores = [[q.shape[1] - numkong.maxsim_packed(a, b) for b in d] for a in packs]
            return torch.tensor(scores)

        def packs(d: Any) -> Any:
            return [numkong.maxsim_pack(each.numpy(), dtype="f32") for each in d]

        yield Peer("NumKong, one thread, documents packed before", packed, packs, trains=False)
    except ImportError:
        pass


@dataclass(frozen=True)
class Row:
    """A peer at a case: milliseconds, and what it says beside float64."""

    case: str
    peer: str
    timing: Timing | None
    error: float | None
    overlap: float | None
    failure: str | None = None


def run(case: Case, peer: Peer, seconds: float) -> Row:
    """Time a peer, whose failure is a row as well."""
    queries, listed = case.inputs()
    documents = listed if case.ragged else torch.stack(listed)
    try:
        ready = peer.ready(documents)
        found = peer.score(queries, ready).double()
        truth = torch.stack(
            [
                torch.einsum("nrd,sd->nrs", queries.double(), each.double()).amax(2).sum(1)
                for each in listed
            ],
            1,
        )
        k = min(BEST, case.documents)
        best, mine = truth.topk(k).indices, found.topk(k).indices
        shared = (best[:, :, None] == mine[:, None]).any(2).double().mean()
        call = (
            (lambda: _step(peer.score, queries, documents))
            if case.trains
            else (lambda: peer.score(queries, ready))
        )
        timing = measure(call, seconds, most=25)
    except Exception as error:  # a peer's own limit is a result
        return Row(case.name, peer.name, None, None, None, f"{type(error).__name__}: {error}")
    return Row(case.name, peer.name, timing, float((found - truth).abs().max()), float(shared))


@dataclass(frozen=True)
class OwnTokens:
    """What ragged documents cost beside as many tokens in documents of one size.

    Attributes:
        ragged, dense: processor seconds of a call, medians of calls that took turns.
        ratio: of the two, each over its tokens.
    """

    ragged: float
    dense: float
    ratio: float

    def __str__(self) -> str:
        """Give the ratio, and milliseconds of both."""
        return (
            f"a token of documents of 20 to 180 costs {self.ratio:.2f} times one of documents of "
            f"one size ({1e3 * self.ragged:.1f} and {1e3 * self.dense:.1f} ms of the processor)"
        )


def own_tokens(case: Case, turns: int) -> OwnTokens:
    """Time ragged documents, as a list, in turn with documents of their mean size.

    Args:
        case: a ragged one.
        turns: calls of each.
    """
    queries, listed = case.inputs()
    tokens = sum(map(len, listed))
    room = round(tokens / case.documents)
    dense = torch.stack(replace(case, room=room, ragged=False).inputs()[1])
    seconds: dict[str, list[float]] = {"ragged": [], "dense": []}
    for turn in range(turns + 1):
        for name, documents in (("ragged", listed), ("dense", dense)):
            begun = time.process_time()
            late_interaction.maxsim(queries, documents)
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - begun)
    found = {name: statistics.median(each) for name, each in seconds.items()}
    ratio = found["ragged"] / tokens / (found["dense"] / (room * case.documents))
    return OwnTokens(found["ragged"], found["dense"], ratio)


def table(rows: list[Row]) -> str:
    """The rows of a case in Markdown."""
    lines = [
        "| | ms (quartiles) | times ours | largest error | best ten |",
        "|---|---|---|---|---|",
    ]
    own = next((row.timing for row in rows if row.timing), None)
    for row in rows:
        if row.timing is None or own is None:
            lines.append(f"| {row.peer} | {row.failure} | | | |")
            continue
        lines.append(
            f"| {row.peer} | {row.timing} | {row.timing.median / own.median:.2f} "
            f"| {row.error:.0e} | {100 * (row.overlap or 0):.0f} % |"
        )
    return "\n".join(lines)


@styled
def figure(rows: list[Row]) -> Figure:
    """Draw how many times as long as this package each other takes, case by case."""
    names = list(dict.fromkeys(row.peer for row in rows if OWN not in row.peer))
    blocks = {}
    for case in dict.fromkeys(row.case for row in rows):
        here = {row.peer: row.timing.median for row in rows if row.case == case and row.timing}
        # What is peculiar to a peer stands in the table.
        bars = [
            (peer.partition(",")[0], names.index(peer), here[peer] / here[OWN])
            for peer in names
            if peer in here
        ]
        blocks[case] = sorted(bars, key=lambda bar: bar[2])
    half = -(-len(blocks) // 2)
    lines = sum(len(bars) + GAP for bars in list(blocks.values())[:half])
    drawn = new_figure(PAGE, 0.8 + 0.155 * lines)
    panels = drawn.subplots(1, 2)
    for panel, cases in zip(panels, (list(blocks)[:half], list(blocks)[half:]), strict=True):
        bars_of_cases(panel, {case: blocks[case] for case in cases})
        panel.set_ylim(lines - 0.6, -0.8)
    drawn.supxlabel("time / time of this package (log scale)", fontsize=8)
    return drawn


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.5, help="of each peer at each case")
    parser.add_argument("--case", type=int, nargs="+", choices=range(len(CASES)))
    parser.add_argument("--out", type=Path, help="a file for JSON")
    parser.add_argument("--plot", type=Path, help="a file for the figure")
    options = parser.parse_args()
    use_threads(options.threads)
    begun = results.begin(Peak(why_not="it was not asked for"))
    machine = begun.machine
    print(f"{machine['cpu']}, {machine['cores']} cores, {options.threads} threads, ", end="")
    print(f"{machine['instruction_set']}, load {begun.load:.1f}")
    kept, own = [], None
    for number, case in enumerate(CASES):
        if options.case is not None and number not in options.case:
            continue
        rows = [
            run(case, peer, options.seconds) for peer in peers() if peer.trains or not case.trains
        ]
        print(f"\n{case.name}\n\n{table(rows)}", flush=True)
        kept += rows
        if case.ragged:
            own = own_tokens(case, TURNS)
            print(f"\n{own}", flush=True)
    if options.out:
        measured = {"machine": machine, "versions": begun.versions, "load": begun.load}
        measured["own tokens"] = None if own is None else asdict(own)
        measured["rows"] = [asdict(row) for row in kept]
        options.out.write_text(json.dumps(measured, indent=1) + "\n")
    if options.plot:
        figure(kept).savefig(options.plot)


def _medium(q: Tensor, d: Any) -> Tensor:
    return late_interaction.maxsim(q, d, precision="medium")


def _bfloat16(d: Any) -> Any:
    return [each.bfloat16() for each in d] if isinstance(d, list) else d.bfloat16()


def _bytes(d: Any) -> Any:
    """Tokens of int8, one after the other, their scales and where each document begins."""
    rows, lengths = torch.cat(list(d)), torch.tensor([0, *map(len, d)])
    scale = rows.abs().amax(1) / 127
    return (rows / scale[:, None]).round().to(torch.int8), scale, lengths.cumsum(0)


def _of_bytes(q: Tensor, d: Any) -> Tensor:
    rows, scale, starts = d
    cu_q = torch.arange(len(q) + 1) * q.shape[1]
    options: Any = {"d_scale": scale, "precision": "medium"}
    return ops.maxsim_packed(q.flatten(0, 1), cu_q, rows, starts, **options).t()


def _einsum(q: Tensor, d: Any) -> Tensor:
    tokens, mask = _padded(d)[0], _padded(d)[2] if isinstance(d, list) else None
    products = torch.einsum("ash,bth->abst", q, tokens)
    if mask is not None:
        products = products.masked_fill_(~mask[None, :, None].bool(), -torch.inf)
    return products.amax(-1).sum(-1)


def _padded(d: Any) -> tuple[Tensor, None, Tensor | None]:
    if isinstance(d, Tensor):
        return d, None, None
    tokens = torch.nn.utils.rnn.pad_sequence(d, batch_first=True)
    lengths = torch.tensor([len(each) for each in d])
    return tokens, None, (torch.arange(tokens.shape[1]) < lengths[:, None]).float()


def _arrays(d: Any) -> Any:
    return [each.numpy() for each in d] if isinstance(d, list) else d.numpy()


def _step(score: Score, queries: Tensor, documents: Tensor) -> None:
    """A contrastive loss and the gradients of all tokens."""
    q, d = queries.detach().requires_grad_(), documents.detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(score(q, d) / 0.05, torch.arange(len(q)))
    torch.autograd.grad(loss, (q, d))


if __name__ == "__main__":
    main()
