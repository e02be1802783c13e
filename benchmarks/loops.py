"""The inner loop of one model, four ways: a worker process, our loop alone, PyTorch, transformers.

Each function is one sample in a process of its own and returns {"rate": tokens/s over all its
steps, "peak": bytes}. On the CPU most also return {"work": tokens per second of CPU time}, which
other processes disturb less. All take the same steps: the same model in float32 or with bf16
products, the same batch, gradients clipped to 1, AdamW fused; or Muon, where a loop is asked for
it. Only the values of their training data differ.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.measure import peak_rss
from benchmarks.rows import Rows
from benchmarks.runs import derived, quiet, synthetic
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest, Routing, run_id
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.run.training import Adam, Muon, Nesterov, Training
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import TOKEN_BYTES, SeedLease, SeedResult
from tests.values import manifest

Sample = dict[str, float]
Precision = Literal["f32", "bf16"]
Inner = Literal["adamw", "muon"]
INNER: dict[Inner, Adam | Muon] = {"adamw": Adam(warmup=1), "muon": Muon(warmup=1)}
MAX_SPEC = 1 << 24  # bytes
TURN_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A path's model, and the batch and steps of a sample."""

    blocks: int
    d_model: int
    heads: int
    d_ff: int
    context: int
    batch: int
    steps: int
    vocabulary: int = embedded_tokenizer().vocabulary


SHAPES = {
    "1.3M": Shape(blocks=4, d_model=128, heads=4, d_ff=344, context=128, batch=16, steps=40),
    "20M": Shape(blocks=10, d_model=384, heads=6, d_ff=1088, context=256, batch=2, steps=4),
    "tiny": Shape(blocks=2, d_model=32, heads=2, d_ff=64, context=48, batch=4, steps=3),
    # The paper's path (its table 1) with a vocabulary of its size.
    "150M": Shape(
        blocks=12,
        d_model=896,
        heads=16,
        d_ff=2432,
        context=1024,
        batch=32,
        steps=20,
        vocabulary=32000,
    ),
}


def run_of(name: str, precision: Precision = "f32", inner: Inner = "adamw") -> Manifest:
    """Return a run of four paths of that shape; its seed phase is the sample."""
    shape = SHAPES[name]
    tokenizer = embedded_tokenizer()
    if shape.vocabulary != tokenizer.vocabulary:  # a placeholder: its ids are never decoded
        tokenizer = Tokenizer(
            sha256=Digest(bytes(32)), size=1, vocabulary=shape.vocabulary, end_of_text=0
        )
    return manifest(
        source=synthetic(2000, 2000),
        tokenizer=tokenizer,
        model=Model(
            d_model=shape.d_model,
            heads=shape.heads,
            kv_heads=shape.heads,
            d_ff=shape.d_ff,
            context=shape.context,
        ),
        grid=Grid(
            levels=(
                Level(experts=2, blocks=shape.blocks // 2),
                Level(experts=2, blocks=shape.blocks - shape.blocks // 2),
            ),
            path_specific_blocks=(),
        ),
        routing=Routing(sample=256, featurizer="bag-sign-v1", dimension=64),
        training=Training(
            seed_steps=shape.steps,
            rounds=1,
            inner_steps=1,
            batch=shape.batch,
            inner=INNER[inner],
            outer=Nesterov(),
            precision=precision,
            deltas="f32",
            updates="f32",
        ),
    )


def parameters(run: Manifest) -> int:
    """Return the number of parameters of one path."""
    top = run.topology
    return sum(map(top.elements, top.path_modules[0]))


def prepare(name: str, folder: str) -> None:
    """Write router and shards of the run to `folder`, where the worker reads them."""
    from dipaco.node.jobs.settings import reproducible_settings
    from dipaco.node.jobs.values import Materialise
    from dipaco.node.worker.performer import Performer, tools_of

    run, settings = run_of(name), reproducible_settings(Path(folder), "cpu")
    spec = derived(run, tools_of(settings))
    Performer(settings).perform(Materialise(manifest=run, spec=spec, window=0), quiet)
    (Path(folder) / "spec.cbor").write_bytes(encode(spec))


def read_spec(folder: str) -> RouterSpec:
    """Return the router that `prepare` wrote."""
    return decode((Path(folder) / "spec.cbor").read_bytes(), RouterSpec, limit=MAX_SPEC)


def worker(name: str, folder: str) -> Sample:
    """Time a seed lease in a worker process; `job` and `work` include the work around its steps."""
    import trio

    return trio.run(_worker, run_of(name), read_spec(folder), Path(folder))


async def _worker(run: Manifest, spec: RouterSpec, home: Path) -> Sample:
    from dipaco.node.config import ComputeSection, NodeConfig
    from dipaco.node.jobs.runner import Worker
    from dipaco.node.jobs.settings import settings_of
    from dipaco.node.jobs.values import Describe, PerformLease

    lease = SeedLease(
        run=run_id(run),
        token=bytes(TOKEN_BYTES),
        window=0,
        spec=spec_digest(spec),
        modules=(),
        ttl=60,
    )
    compute = ComputeSection(device="cpu", threads=1, nice=0)
    made = Worker(settings_of(NodeConfig(home=home, compute=compute)), print)
    try:
        await made.run(Describe(), quiet)  # imports torch
        assert made.pid is not None
        process = psutil.Process(made.pid)
        before, began = process.cpu_times(), time.perf_counter()
        trained = await made.run(PerformLease(manifest=run, spec=spec, lease=lease), quiet)
        seconds, after = time.perf_counter() - began, process.cpu_times()
        assert isinstance(trained, SeedResult), trained
        used = after.user + after.system - before.user - before.system
        return {
            "rate": trained.tokens / trained.seconds,
            "job": trained.tokens / seconds,
            "work": trained.tokens / used,
            "peak": peak_rss(made.pid),
        }
    finally:
        await made.close()


def ours(name: str, device: str, precision: Precision, options: dict[str, Any]) -> Sample:
    """Run the worker's loop in this process, on any device and with any options."""
    import torch

    from dipaco.node.config import ComputeSection
    from dipaco.node.training.compiled import compile_blocks
    from dipaco.node.training.inner_loop import PathState, Steps, make_deterministic, run_steps
    from dipaco.node.training.model import PathModel
    from dipaco.protocol.run.batches import RowOrder

    run, wished = run_of(name, precision), msgspec.convert(options, ComputeSection)
    make_deterministic(1)
    model = PathModel(run, torch.device(device))
    model.model.checkpointing = wished.checkpointing == "on"
    if wished.compile:
        compile_blocks(model)
    weights = {m: initial_module(run, m) for m in run.topology.path_modules[0]}
    drawn = _rows(run)
    ended = [0.0]

    def take(steps: int) -> None:
        run_steps(
            model,
            run,
            PathState(weights=weights),
            Rows(drawn),
            RowOrder(Digest(bytes(32)), len(drawn)),
            Steps(count=steps, first_batch=0, first_rate=0),
            max_batch=0,
            on_step=lambda report: ended.append(report.tokens_per_second),
            moment_bits=wished.moment_bits,
        )

    take(2)  # one-time work: kernels are chosen, or compiled
    take(SHAPES[name].steps)
    return {"rate": ended[-1], "peak": _peak(device)}


def bare(name: str, device: str, precision: Precision) -> Sample:
    """Run the same model in a plain PyTorch loop."""
    import torch

    from dipaco.node.training.inner_loop import make_deterministic
    from dipaco.node.training.model import PathModel, load

    run = run_of(name, precision)
    make_deterministic(1)
    model = PathModel(run, torch.device(device))
    load(model, run, {m: initial_module(run, m) for m in run.topology.path_modules[0]})
    return _loop(run, model, device, model.loss)


def transformers(name: str, device: str, precision: Precision) -> Sample:
    """Run transformers' model of the same size, with its own loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dipaco.node.training.inner_loop import make_deterministic

    run = run_of(name, precision)
    make_deterministic(1)
    config = LlamaConfig(
        vocab_size=run.tokenizer.vocabulary,
        hidden_size=run.model.d_model,
        intermediate_size=run.model.d_ff,
        num_hidden_layers=run.grid.blocks,
        num_attention_heads=run.model.heads,
        num_key_value_heads=run.model.kv_heads,
        max_position_embeddings=run.model.context + 1,
        tie_word_embeddings=run.model.tied,
        use_cache=False,
    )
    model: Any = LlamaForCausalLM(config)  # its attention is torch's scaled_dot_product_attention
    assert model.config._attn_implementation == "sdpa"
    model = model.to(device)
    half = precision == "bf16"

    def loss(rows: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            return model(input_ids=rows[:, :-1], labels=rows[:, :-1]).loss * rows[:, 1:].numel()

    return _loop(run, model, device, loss)


def _loop(run: Manifest, model: Any, device: str, loss: Callable[[Any], Any]) -> Sample:
    import torch

    step = _plain_step(run, model, device, loss)

    def take(count: int) -> tuple[float, float]:
        began, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            step(number)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began, time.process_time() - cpu

    if device != "cpu":
        take(2)
    steps = run.training.seed_steps
    tokens = steps * run.training.batch * run.model.context
    seconds, used = take(steps)
    return {"rate": tokens / seconds, "work": tokens / used, "peak": _peak(device)}


def _plain_step(
    run: Manifest,
    model: Any,
    device: str,
    loss: Callable[[Any], Any],
    *,
    torchs_muon: bool = False,
) -> Callable[[int], None]:
    """Return the step of a plain loop; its argument is the step's number.

    torchs_muon   Muon is torch's own, whose products are in bf16 always, and not the plain one.
    """
    import torch

    training, drawn = run.training, torch.from_numpy(_rows(run))
    inner = training.inner
    hidden: list[Any] = []
    optimizers: list[Any] = []
    if isinstance(inner, Muon):
        hidden = [p for n, p in model.named_parameters() if "proj" in n]
        optimizers.append(
            torch.optim.Muon(
                hidden,
                lr=inner.lr,
                weight_decay=inner.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            if torchs_muon
            else PlainMuon(hidden, inner)
        )
    taken = {id(p) for p in hidden}
    optimizers.append(
        torch.optim.AdamW(
            [p for p in model.parameters() if id(p) not in taken],
            lr=inner.lr,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            fused=True,
        )
    )

    def step(number: int) -> None:
        rows = drawn.roll(-number * training.batch, 0)[: training.batch].to(device)
        value = loss(rows)
        (value / rows[:, 1:].numel()).backward()
        value.item()  # a loop that prints its loss waits for it too
        torch.nn.utils.clip_grad_norm_(model.parameters(), inner.clip)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()

    return step


class PlainMuon:
    """Muon as torch's own is written, one matrix at a time, but in the matrix's own precision."""

    def __init__(self, matrices: list[Any], inner: Muon) -> None:
        self._matrices, self._inner = matrices, inner
        self._momenta = [p.detach().clone().zero_() for p in matrices]

    def step(self) -> None:
        """Take one step."""
        import torch

        inner = self._inner
        with torch.no_grad():
            for p, momentum in zip(self._matrices, self._momenta, strict=True):
                momentum.lerp_(p.grad, 1 - inner.momentum)
                x = p.grad.lerp(momentum, inner.momentum)
                high = x.shape[0] > x.shape[1]
                x = x.T if high else x
                x = x / x.norm().clamp(min=1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    polynomial = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
                    x = torch.addmm(x, polynomial, x, beta=3.4445)
                p.mul_(1 - inner.lr * inner.weight_decay)
                p.add_(x.T if high else x, alpha=-inner.lr * 0.2 * max(p.shape) ** 0.5)


def in_turns(name: str, turns: int, inner: Inner = "adamw") -> dict[str, list[float]]:
    """Return CPU seconds per step of our loop and of bare ones, in this process, in turns.

    Beside `bare` there is `torch`, with torch's own Muon, where the run trains with Muon.
    """
    import torch

    from dipaco.node.training.inner_loop import PathState, Steps, make_deterministic, run_steps
    from dipaco.node.training.model import PathModel, load
    from dipaco.protocol.run.batches import RowOrder

    run = run_of(name, inner=inner)
    make_deterministic(1)
    weights = {m: initial_module(run, m) for m in run.topology.path_modules[0]}
    model, rows, steps = PathModel(run, torch.device("cpu")), Rows(_rows(run)), {}
    for side in ("bare", "torch") if inner == "muon" else ("bare",):
        other = PathModel(run, torch.device("cpu"))
        load(other, run, weights)
        steps[side] = _plain_step(run, other, "cpu", other.loss, torchs_muon=side == "torch")
    found: dict[str, list[float]] = {side: [] for side in ("ours", *steps)}
    for _ in range(turns + 1):
        ended: list[float] = []
        run_steps(
            model,
            run,
            PathState(weights=weights),
            rows,
            RowOrder(Digest(bytes(32)), rows.rows),
            Steps(count=TURN_STEPS + 1, first_batch=0, first_rate=0),
            max_batch=0,
            on_step=lambda report, ended=ended: ended.append(time.process_time()),  # type: ignore[misc]
        )
        found["ours"].append((ended[-1] - ended[0]) / TURN_STEPS)
        for side, step in steps.items():
            began = time.process_time()
            for number in range(TURN_STEPS):
                step(number)
            found[side].append((time.process_time() - began) / TURN_STEPS)
    return {side: series[1:] for side, series in found.items()}  # the first has one-time work


def _rows(run: Manifest) -> NDArray[np.int64]:
    shape = (4 * run.training.batch, run.model.context + 1)
    return np.random.default_rng(0).integers(0, run.tokenizer.vocabulary, shape)


def _peak(device: str) -> int:
    import torch

    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else peak_rss()
