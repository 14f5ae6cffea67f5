"""One side of bench/gpu.py: a process that trains and answers when asked, a line in, a line out."""

from __future__ import annotations

import gc
import json
import queue
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import answer_speed
import torch
from answer_speed import KINDS, Kind, work_of
from reference import Clip, Reference, Training
from reference_answers import Plain, Work, ask, talk

from ranker.lalm.merged import MergedDecoder
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.lalm.train import train
from speed.card_models import SEVERAL, Size, batches_of, build, encoder_of, recipe_of, size_of, waited
from speed.card_same import same

RANKER, GRAPHS, BF16, GRAPHS_BF16 = "ranker", "ranker, graphs", "ranker, bf16", "ranker, bf16, graphs"
REFERENCE, SAME = "reference loop", "same"
OURS = (RANKER, GRAPHS, BF16, GRAPHS_BF16)
PROFILED = 3  # steps: the profiler takes long to sort what it saw
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """The best of ten products of square matrices, in 10^12 operations a second."""
    x = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(10):
        waited(device)
        started = time.perf_counter()
        x @ x
        waited(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e12)
    return best


class Profile:
    """torch's profiler over some steps: launches, and for how long the card was at work."""

    def __init__(self, device: torch.device) -> None:
        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CUDA if device.type == "cuda" else kinds.CPU]  # launches are among the card's
        self._device, self._profiler = device, torch.profiler.profile(activities=activities)

    def __enter__(self) -> Profile:
        waited(self._device)
        self._profiler.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        waited(self._device)
        self.seconds = time.perf_counter() - self._started
        self._profiler.stop()

    def found(self, steps: int) -> dict[str, Any]:
        """Launches per step, the share of the time in which kernels ran, and the kernels that took longest."""
        events = self._profiler.key_averages()
        launches = sum(event.count for event in events if event.key.startswith(_LAUNCHES))
        on_card = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        kernels = {event.key: event.self_device_time_total / 1e6 for event in on_card}
        top = sorted(kernels.items(), key=lambda item: -item[1])[:8]
        return {"launches": launches / steps, "busy": sum(kernels.values()) / self.seconds, "top": top}


class OnDevice:
    """An encoder for who gives it tensors of the host and wants such back."""

    def __init__(self, encoder: torch.nn.Module, device: torch.device) -> None:
        self.encoder, self.device = encoder, device

    @torch.inference_mode()
    def __call__(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(each.cpu() for each in self.encoder(audio.to(self.device)))


class Answers(answer_speed.Ours):
    """ranker's answers, by a model that is there."""

    def __init__(self, model: AudioLanguageModel, encoder: OnDevice, *, bf16: bool, graphs: bool) -> None:
        self.model, self.encoder, self.recipe = model.eval(), encoder, recipe_of(bf16=bf16, dropout=0.0)
        self.merged = MergedDecoder(model, self.recipe, graphs=graphs)


class Ended(Exception):  # noqa: N818 it is none
    """Raised inside `train` to leave it."""


class Ours:
    """ranker: the real `train` in a thread that stops after each round."""

    def __init__(self, options: Any, size: Size, device: torch.device) -> None:
        self.bf16, self.graphs = options.side in {BF16, GRAPHS_BF16}, options.side in {GRAPHS, GRAPHS_BF16}
        self.device, self.steps = device, options.steps
        self.encoder = OnDevice(encoder_of(size, device), device)
        self.recipe = recipe_of(bf16=self.bf16, dropout=0.1)
        self.model = build(options.decoder, self.recipe, size.encoder_width, device)
        self._go: queue.Queue[str] = queue.Queue()
        self._done: queue.Queue[Any] = queue.Queue()
        self._examples = [[self._example(clip) for clip in batch] for batch in batches_of("mixed", size)]
        self._long = [[self._example(clip) for clip in batches_of("long", size)[0]]]
        self._asking: Answers | None = None
        self._thread: threading.Thread | None = None

    def _example(self, clip: Clip) -> Example:
        features = self.encoder(clip.audio[None])[0][0].numpy()
        return Example(features=features, prompt=clip.prompt, target=clip.target)

    def train(self, *, profiled: bool = False) -> dict[str, Any]:
        """A round of `steps` steps."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._training, args=(self._examples, self.steps), daemon=True)
            self._thread.start()
        return self._round("profile" if profiled else "go")

    def _round(self, word: str) -> dict[str, Any]:
        self._go.put(word)
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        answer: dict[str, Any] = found
        return answer

    def _training(self, batches: Sequence[Sequence[Example]], steps: int) -> None:
        losses: list[float] = []
        state: dict[str, Any] = {}

        def begin() -> None:
            word = self._go.get()
            if word == "end":
                raise Ended
            losses.clear()
            state["steps"] = min(PROFILED, steps) if word == "profile" else steps
            state["profile"] = Profile(self.device).__enter__() if word == "profile" else None
            waited(self.device)
            state["started"] = time.perf_counter()

        def stepped(_: int, loss: float) -> None:
            losses.append(loss)
            if len(losses) < state["steps"]:
                return
            waited(self.device)
            found: dict[str, Any] = {"seconds": time.perf_counter() - state["started"], "losses": list(losses)}
            if state["profile"] is not None:
                state["profile"].__exit__()
                found |= state["profile"].found(state["steps"])
            self._done.put(found)
            begin()

        try:
            begin()
            with tempfile.TemporaryDirectory() as folder:
                train(
                    self.model,
                    recipe=self.recipe,
                    steps=100_000,
                    random_key="card",
                    examples=lambda step: batches[step % len(batches)],
                    folder=Path(folder),
                    resume_from=None,
                    cpu=self.device.type == "cpu",
                    on_step=stepped,
                    graphs=self.graphs,
                )
        except Ended:
            pass
        except BaseException as error:  # noqa: BLE001 it is told to who waits
            self._done.put(error)

    def end_training(self) -> None:
        if self._thread is not None:
            self._go.put("end")
            self._thread.join()
            self._thread = None

    def memory(self) -> None:
        """Two steps with the longest clips."""
        self.end_training()
        self._thread = threading.Thread(target=self._training, args=(self._long, 2), daemon=True)
        self._thread.start()
        self._round("go")
        self.end_training()

    def encode(self) -> dict[str, float]:
        """Seconds per clip of the middle batch's length, alone and several together."""
        audio = torch.randn(SEVERAL, 10 * 16_000 if self.device.type == "cuda" else 16_000)
        found = {"audio_s": audio.shape[1] / 16_000}
        for name, given in (("alone", audio[:1]), ("together", audio)):
            self.encoder(given)
            started = time.perf_counter()
            for _ in range(3):
                self.encoder(given)
            found[name] = (time.perf_counter() - started) / 3 / len(given)
        return found

    def answers(self) -> Answers:
        """The answering side, made once training has ended."""
        if self._asking is None:
            self.end_training()
            self.model.zero_grad(set_to_none=True)
            talk(self.model.to("cpu").decoder, self.model.projector)
            self._asking = Answers(self.model.to(self.device), self.encoder, bf16=self.bf16, graphs=self.graphs)
        return self._asking

    def ask(self, work: Work) -> list[list[list[int]]]:
        return self.answers().ask(work)


class Theirs:
    """The reference loop on a device: batches are moved there as they come."""

    def __init__(self, options: Any, size: Size, device: torch.device) -> None:
        self.device, self.steps, self.decoder = device, options.steps, options.decoder
        self.encoder, self.size = encoder_of(size, device), size
        self.training = Training(Reference(self.encoder, options.decoder).to(device), steps=100_000)
        self.training.model.register_forward_pre_hook(lambda _, given: (self._here(given[0]),))
        self._batches, self._long = batches_of("mixed", size), batches_of("long", size)
        self._taken = 0
        self._plain: Plain | None = None

    def _here(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: each.to(self.device) for name, each in batch.items()}

    def train(self, *, profiled: bool = False) -> dict[str, Any]:
        profile = Profile(self.device) if profiled else None
        waited(self.device)
        started = time.perf_counter()
        if profile:
            profile.__enter__()
        losses = []
        steps = min(PROFILED, self.steps) if profiled else self.steps
        for _ in range(steps):
            losses.append(self.training.step(self._batches[self._taken % len(self._batches)], 0))
            self._taken += 1
        if profile:
            profile.__exit__()
        waited(self.device)
        found = {"seconds": time.perf_counter() - started, "losses": losses}
        return found | (profile.found(steps) if profile else {})

    def end_training(self) -> None:
        """Nothing is held beyond a step."""

    def memory(self) -> None:
        for _ in range(2):
            self.training.step(self._long[0], 0)

    def ask(self, work: Work) -> list[list[list[int]]]:
        if self._plain is None:
            del self.training
            self._plain = Plain(self.encoder.cpu(), self.decoder)
            talk(self._plain.decoder, self._plain.projector)
            self._plain.model.to(self.device)
            generate: Callable[..., Any] = self._plain.generate
            self._plain.generate = lambda batch, most: generate(self._here(batch), most)  # type: ignore[method-assign]
        return ask(self._plain, work)


def kind_named(name: str, *, toy: bool) -> Kind:
    """A kind of answers of bench/answer_speed.py; as a toy, of short clips and answers."""
    kind = next(each for each in KINDS if each.name == name)
    if toy:
        return Kind(**{**vars(kind), "shortest_s": 0.3, "longest_s": 0.6, "max_new_tokens": 8, "tokens": 3})
    return kind


def serve(options: Any) -> None:
    """Answer until there are no more questions."""
    out, sys.stdout = sys.stdout, sys.stderr
    device = torch.device("cpu" if options.cpu else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size = size_of(options.layers, toy=options.cpu)
    if options.side == SAME:
        found = same(options.decoder, size, device)
        out.write(json.dumps({"checks": found.checks, "held": found.held}) + "\n")
        return
    side: Any = (Ours if options.side in OURS else Theirs)(options, size, device)
    for line in sys.stdin:
        asked = json.loads(line)
        out.write(json.dumps(did(side, asked, options, device)) + "\n")
        out.flush()


def did(side: Any, asked: dict[str, Any], options: Any, device: torch.device) -> dict[str, Any]:
    """What one question is answered with."""
    found: dict[str, Any]
    match asked["do"]:
        case "train":
            found = side.train(profiled=asked.get("profiled", False))
        case "memory":
            side.end_training()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            side.memory()
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            held = torch.cuda.max_memory_reserved() if device.type == "cuda" else resident
            found = {"gb": held / 1e9}
        case "rates":
            rates = {"fp32": torch.float32, "bf16": torch.bfloat16}
            size = 256 if options.cpu else 8192
            found = {name: matrix_rate(device, dtype, size) for name, dtype in rates.items()} | side.encode()
        case "eos":
            kind = kind_named(asked["kind"], toy=options.cpu)
            found = {"eos_id": side.answers().fitting_eos(kind, options.scale)}
        case "answer":
            work = work_of(kind_named(asked["kind"], toy=options.cpu), options.scale, asked["eos_id"])
            waited(device)
            started = time.perf_counter()
            answers = side.ask(work)
            waited(device)
            found = {"seconds": time.perf_counter() - started, "answers": [each[0] for each in answers]}
        case other:
            raise ValueError(f"unknown question {other!r}")
    return found
