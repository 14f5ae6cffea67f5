"""Training beside XARES-LLM's on the same work: writes docs/results/train_speed.md.

    python bench/train_speed.py [--peer CHECKOUT] [--peer-python PYTHON] [--rounds 5] [--minutes 9] [--threads 2]

Each side is a process of its own that waits while another works: ranker's `train` in float32 and in bf16, the reference
loop (bench/reference.py) and, if CHECKOUT is given, XARES-LLM's own model in that loop. In each round every side takes
the same steps; ratios are taken round by round. Then each takes one step on four clips of 30 s, for its peak of memory.
ranker's features are made beforehand, as by its cache; what that takes is reported beside. PYTHON is an interpreter
with what CHECKOUT requires (default: this one).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from reference import Clip, Reference, Training
from reference_answers import Peer
from speed.random_encoder import RandomEncoder

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "results" / "train_speed.md"
RANKER, RANKER_BF16, REFERENCE, PEER = "ranker", "ranker, bf16", "reference loop", "XARES-LLM"
WINDOW, BATCH = 128, 4  # samples sorted by length together, and in one batch: both of the challenge
PLACES = (1 / 6, 3 / 6, 5 / 6)  # of the batches of a window: together they have its mean length
LONG = "long"
EOS = 2


def work(what: str, longest_s: float) -> list[list[Clip]]:
    """The batches of one round, or four of the longest clips: lengths log-uniform from 1 s, sorted in a window."""
    drawn = random.Random(0)
    if what == LONG:
        lengths = [[longest_s] * BATCH]
    else:
        seconds = sorted(math.exp(drawn.uniform(0.0, math.log(longest_s))) for _ in range(WINDOW))
        cut = [seconds[start : start + BATCH] for start in range(0, WINDOW, BATCH)]
        lengths = [cut[int(place * len(cut))] for place in PLACES]
    noise = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(100, 40_000) for _ in range(count))

    return [
        [
            Clip(
                audio=0.1 * torch.randn(round(each * 16_000), generator=noise),
                prompt=tokens(drawn.randrange(4, 13)),
                target=(*tokens(drawn.randrange(1, 31)), EOS),
            )
            for each in batch
        ]
        for batch in lengths
    ]


class PeerLoss(torch.nn.Module):
    """XARES-LLM's model where the reference's stands."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.model = peer.model
        self.encoder = peer.model.audio_encoder

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss: torch.Tensor = self.model(**batch).loss
        return loss


def plain_steps(options: argparse.Namespace, batches: Sequence[Sequence[Clip]]) -> Iterator[dict[str, Any]]:
    """Rounds of the reference's or the peer's; what is given of each."""
    model: Any
    if options.side == PEER:
        model = PeerLoss(Peer(options.peer, HERE / "speed" / "random_encoder.py", options.decoder))
    else:
        model = Reference(RandomEncoder(), options.decoder)
    spent = [0.0]
    model.encoder.register_forward_pre_hook(lambda *_: spent.append(-time.perf_counter()))
    model.encoder.register_forward_hook(lambda *_: spent.append(time.perf_counter()))
    training = Training(model, steps=10_000)
    yield {}
    while True:
        spent.clear()
        losses = [training.step(clips, EOS) for clips in batches]
        yield {"losses": losses, "encoder_s": sum(spent)}


def our_steps(
    options: argparse.Namespace, batches: Sequence[Sequence[Clip]], ask: Callable[[dict[str, Any]], None]
) -> None:
    """The real `train`, stopped after each round by `ask`, which returns when the next is to begin."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ranker.config import Recipe
    from ranker.lalm.model import AudioLanguageModel, Example
    from ranker.lalm.train import train

    network: Any = AutoModelForCausalLM.from_pretrained(options.decoder, dtype=torch.float32, local_files_only=True)
    network.requires_grad_(requires_grad=False)
    encoder = RandomEncoder().eval()
    started = time.perf_counter()
    with torch.inference_mode():
        examples = [
            [
                Example(features=encoder(clip.audio[None])[0][0].numpy(), prompt=clip.prompt, target=clip.target)
                for clip in batch
            ]
            for batch in batches
        ]
    encode_s = time.perf_counter() - started
    recipe = Recipe(precision="bf16" if options.side == RANKER_BF16 else "fp32", checkpoint_every=10_000)
    model = AudioLanguageModel(
        network,
        AutoTokenizer.from_pretrained(options.decoder, local_files_only=True),
        feature_dim=encoder.output_dim,
        recipe=recipe,
        init_key="speed",
    )
    del encoder, network
    losses: list[float] = []
    ask({"encode_s": encode_s, "matrix_gflops": matrix_rate(model.body.embed_tokens.weight.dtype)})
    with tempfile.TemporaryDirectory() as folder:

        def stepped(done: int, loss: float) -> None:
            losses.append(loss)
            if done % len(batches) == 0:
                lines = (Path(folder) / "train.jsonl").read_text(encoding="utf-8").splitlines()[-len(batches) :]
                ask(
                    {"losses": losses[-len(batches) :], "waited_s": sum(json.loads(line)["waited_s"] for line in lines)}
                )

        train(
            model,
            recipe=recipe,
            steps=10_000,
            random_key="speed",
            examples=lambda step: examples[step % len(examples)],
            folder=Path(folder),
            resume_from=None,
            cpu=True,
            on_step=stepped,
        )


def matrix_rate(dtype: torch.dtype) -> float:
    """The best of ten products of the decoder's most frequent shape, in 10^9 operations a second."""
    from ranker.lalm.frozen import laid_out

    x, multiply = torch.randn(1024, 576).to(dtype), laid_out(torch.randn(1536, 576).to(dtype))

    def once() -> float:
        started = time.perf_counter()
        multiply(x)
        return 2 * 1024 * 576 * 1536 / (time.perf_counter() - started) / 1e9

    return max(once() for _ in range(10))


def operations(batches: Sequence[Sequence[Clip]], layers: int) -> float:
    """What a round of ranker's cannot do without: products with the decoder's frozen weights, forward and for the
    gradient of their inputs, and attention, in operations (a product and a sum are two). Of the last block, all
    positions need keys and values only.
    """
    keys, block = 576 * (192 + 192), 576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536
    total = 0.0
    for clip in (clip for batch in batches for clip in batch):
        labels = len(clip.target)
        tokens = len(clip.audio) / 640 + len(clip.prompt) + labels
        # Attention is causal: two products forward and five backward, half of each.
        total += (layers - 1) * (4 * tokens * block + 7 * tokens**2 * 576)
        total += 4 * tokens * keys + 4 * labels * (block - keys) + 14 * labels * tokens * 576
        total += 4 * labels * 576 * 49_152
    return total


def serve(options: argparse.Namespace) -> None:
    """A side's process: a line in, a round, a line out. The first line out says that it is ready."""
    out, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(options.threads)
    batches = work(options.work, options.longest_s)
    since: list[tuple[float, float]] = []

    def ask(found: dict[str, Any]) -> None:
        if since:
            wall, processor = since.pop()
            found |= {"seconds": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
        found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        out.write(json.dumps(found) + "\n")
        out.flush()
        word = sys.stdin.readline().strip()
        if profiler is not None:
            profiler.stop()
            table = shares(profiler)
            out.write(json.dumps(table) + "\n")
            out.flush()
            word = ""
        if not word:
            os._exit(0)
        if word == "profile":
            start_profiler()
        since.append((time.perf_counter(), time.process_time()))

    profiler: Any = None

    def start_profiler() -> None:
        nonlocal profiler
        profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
        profiler.start()

    if options.side in {RANKER, RANKER_BF16}:
        our_steps(options, batches, ask)
    else:
        for found in plain_steps(options, batches):
            ask(found)


KINDS = {
    "products of matrices": ("mm", "addmm", "bmm", "linear_pointwise", "linear"),
    "attention, but for its products": ("scaled_dot_product", "softmax"),
    "copies and conversions": ("copy_", "to_copy", "cat", "clone", "contiguous"),
    "optimizer": ("fused_adamw", "foreach"),
}


def shares(profiler: Any) -> dict[str, float]:
    """What share of the profiled time each kind of operation took itself."""
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::").removeprefix("mkldnn::").lstrip("_")
        kind = next(
            (kind for kind, starts in KINDS.items() if name.rstrip("_").startswith(starts) or name in starts),
            "all else",
        )
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: value / total for kind, value in sorted(spent.items(), key=lambda item: -item[1])}


class Side:
    """A process that trains when asked."""

    def __init__(self, name: str, options: argparse.Namespace, decoder: Path, what: str) -> None:
        python = options.peer_python if name == PEER else sys.executable
        command = [str(python), "-W", "ignore", str(HERE / "train_speed.py"), "--side", name, "--work", what]
        command += ["--decoder", str(decoder), "--threads", str(options.threads), "--longest-s", str(options.longest_s)]
        command += ["--peer", str(options.peer.absolute())] if options.peer else []
        environment = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
        environment["PYTHONPATH"] = str(HERE.parent) if name != PEER else ""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.name = name
        self.ready = self.heard()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, word: str = "go") -> dict[str, Any]:
        """Have it take a round."""
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.heard()

    def end(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


Round = dict[str, dict[str, Any]]  # side -> what it did


def measure(options: argparse.Namespace, decoder: Path, sides: Sequence[str]) -> tuple[list[Round], Round, Round]:
    """Rounds of all sides in turn; what each said when it was ready; and the profiles of ranker's."""
    since = time.monotonic()
    running = [Side(name, options, decoder, "mixed") for name in sides]
    try:
        for side in running:
            side.ask()  # the first round pays for what later ones find done
        rounds: list[Round] = []
        longest = 0.0
        while len(rounds) < options.rounds:
            started = time.monotonic()
            if len(rounds) >= 2 and started - since + longest > options.minutes * 60:
                break
            rounds.append({side.name: side.ask() for side in running})
            longest = max(longest, time.monotonic() - started)
            print(len(rounds), {name: round(did["seconds"], 1) for name, did in rounds[-1].items()}, flush=True)
        profiles = {}
        for side in running[:2]:
            side.ask("profile")
            profiles[side.name] = side.ask()
        return rounds, {side.name: side.ready for side in running}, profiles
    finally:
        for side in running:
            side.end()


def memory(options: argparse.Namespace, decoder: Path, sides: Sequence[str]) -> dict[str, float]:
    """Peak memory (GB) of one step with four clips of 30 s, each side alone."""
    peaks = {}
    for name in sides:
        side = Side(name, options, decoder, LONG)
        peaks[name] = side.ask()["peak_gb"]
        side.end()
        print("memory", name, round(peaks[name], 1), flush=True)
    return peaks


def words(values: Sequence[float]) -> str:
    """The median, and in brackets the smallest and the largest."""
    return f"**{median(values):.2f}** ({min(values):.2f} to {max(values):.2f})"


def ratios(rounds: Sequence[Round], slow: str, fast: str, clock: str = "seconds") -> list[float]:
    """How many times as long the slow side took as the fast one, in each round."""
    return [each[slow][clock] / each[fast][clock] for each in rounds]


def speed_table(rounds: Sequence[Round], peaks: dict[str, float], *, clips: int, longest_s: float) -> list[str]:
    """Samples per second, processor time and memory of each side."""
    lines = [
        "| side | samples per second | processor seconds per sample | peak memory, "
        f"{BATCH} clips of {longest_s:g} s (GB) |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in rounds[0]:
        rates = [clips / each[name]["seconds"] for each in rounds]
        spent = [each[name]["processor_s"] / clips for each in rounds]
        lines.append(f"| {name} | {words(rates)} | {words(spent)} | {peaks.get(name, math.nan):.1f} |")
    return lines


def ratio_table(rounds: Sequence[Round], peaks: dict[str, float]) -> list[str]:
    """How much longer the others take, and ranker's share of their memory."""
    ours = (RANKER, RANKER_BF16)
    lines = ["| | ranker | ranker, bf16 |", "| --- | ---: | ---: |"]

    def line(what: str, cells: Sequence[str]) -> None:
        lines.append(f"| {what} | {' | '.join(cells)} |")

    for name in (each for each in rounds[0] if each not in ours):
        line(f"{name} takes times as long", [words(ratios(rounds, name, fast)) for fast in ours])
        line("the same in processor time", [words(ratios(rounds, name, fast, "processor_s")) for fast in ours])
        alone = [
            [(each[name]["seconds"] - each[name]["encoder_s"]) / each[fast]["seconds"] for each in rounds]
            for fast in ours
        ]
        line("the same without its encoder's time", [words(each) for each in alone])
        if peaks:
            line(f"peak memory, share of {name}'s", [f"{peaks[fast] / peaks[name]:.2f}" for fast in ours])
    return lines


def rate_table(rounds: Sequence[Round], ready: Round, needed: float) -> list[str]:
    """What of the processor's rate is reached, where `needed` operations are done in a round."""
    lines = [
        "| | matrix rate, GFLOP/s | of it reached in steps | waited for a batch |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in (RANKER, RANKER_BF16):
        rate = ready[name]["matrix_gflops"]
        reached = median(needed / each[name]["seconds"] / 1e9 / rate for each in rounds)
        waited = median(each[name]["waited_s"] / each[name]["seconds"] for each in rounds)
        lines.append(f"| {name} | {rate:.0f} | {reached:.0%} | {waited:.2%} |")
    return lines


def profile_table(profiles: Round) -> list[str]:
    """Where ranker's time goes."""
    lines = ["| | " + " | ".join(profiles) + " |", "| --- |" + " ---: |" * len(profiles)]
    for kind in [*KINDS, "all else"]:
        cells = [f"{found.get(kind, 0):.0%}" for found in profiles.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def report(
    options: argparse.Namespace, measured: tuple[list[Round], Round, Round], peaks: dict[str, float], load: float
) -> str:
    """The page."""
    rounds, ready, profiles = measured
    batches = work("mixed", options.longest_s)
    clips = [clip for batch in batches for clip in batch]
    seconds = [len(clip.audio) / 16_000 for clip in clips]
    close = ""
    if options.peer:
        close = (
            f"The reference loop takes {words(ratios(rounds, REFERENCE, PEER))} times as long as XARES-LLM's own model."
        )
    apart = [
        abs(a - b) for each in rounds for a, b in zip(each[RANKER]["losses"], each[RANKER_BF16]["losses"], strict=True)
    ]
    encode_s, step_s = ready[RANKER]["encode_s"], median(each[RANKER]["seconds"] for each in rounds)
    lines = [
        "# Training beside XARES-LLM's",
        "",
        f"Written by `python bench/train_speed.py --rounds {options.rounds} --threads {options.threads}"
        f"{' --peer CHECKOUT' if options.peer else ''}` on {datetime.now(UTC):%Y-%m-%d}: {len(rounds)} rounds of "
        f"{len(batches)} steps with {BATCH} clips of {min(seconds):.1f} to {max(seconds):.1f} s (mean "
        f"{sum(seconds) / len(seconds):.1f} s); {options.threads} threads, no GPU; load average before it {load:.1f}. "
        f"Encoder: random weights, 87 M parameters, 25 frames/s. Decoder: the stand-in, {options.layers} layers. LoRA "
        "dropout 0.1 on all sides. Medians of the rounds (smallest to largest).",
        "",
        *speed_table(rounds, peaks, clips=len(clips), longest_s=options.longest_s),
        "",
        *ratio_table(rounds, peaks),
        "",
        close,
        "",
        *rate_table(rounds, ready, operations(batches, options.layers)),
        "",
        f"Encoding the {len(clips)} clips once, one by one, took ranker {encode_s:.1f} s, beside {step_s:.1f} s for "
        "training on each of them once: what the cache saves grows with the visits to a clip. The same steps, weights "
        f"and dropout in bf16 gave losses that differ by {sum(apart) / len(apart):.3f} on average, {max(apart):.3f} at "
        f"most (of about {rounds[0][RANKER]['losses'][0]:.1f}).",
        "",
        "Where ranker's time goes (share of the profiled time):",
        "",
        *profile_table(profiles),
    ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--decoder", type=Path, help="a folder with SmolLM2-135M; default: the stand-in")
    parser.add_argument("--layers", type=int, default=30, help="of the stand-in")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=6.0, help="no third round is begun that would end later")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--longest-s", type=float, default=30.0, help="seconds of the longest clips")
    parser.add_argument("--no-memory", action="store_true", help="leave out the step with the longest clips alone")
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--work", default="mixed", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.side:
        serve(options)
        return
    load = os.getloadavg()[0]
    sides = [RANKER, RANKER_BF16, REFERENCE, *([PEER] if options.peer else [])]
    with tempfile.TemporaryDirectory(prefix="ranker-train-speed-") as folder:
        if options.decoder is None:
            from peer_parity import write_decoder

            write_decoder(Path(folder), options.layers)
        decoder = (options.decoder or Path(folder)).absolute()
        measured = measure(options, decoder, sides)
        peaks = {} if options.no_memory else memory(options, decoder, sides)
    options.out.write_text(report(options, measured, peaks, load), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
