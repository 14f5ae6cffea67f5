"""What XARES-LLM does on the shards of peer_parity.py, by its own trainer, model and data classes: one file of tensors.

    python bench/peer/record.py SPEC.json

Runs under the interpreter in which that program's requirements are installed; nothing of ranker is imported. What is
changed in it, and why: LoRA dropout is set to 0 where the run is to be compared step by step; no checkpoint is written;
arguments that the installed transformers no longer knows are left out; packages of NEEDED that are not installed are
replaced by the stand-ins below.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import random
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

NEEDED = ("torchaudio", "loguru")
LORA_DROPOUT = 0.1
VERSIONS = ("torch", "torchaudio", "transformers", "peft", "accelerate", "webdataset", "tokenizers", "numpy")


def resample(audio: torch.Tensor, old_hz: int, new_hz: int) -> torch.Tensor:
    """Band-limited interpolation by a sinc under a Hann window, with the published defaults of torchaudio: six zero
    crossings to each side, cut-off at 0.99 of the lower Nyquist frequency.
    """
    if old_hz == new_hz:
        return audio
    divisor = gcd(old_hz, new_hz)
    old, new = old_hz // divisor, new_hz // divisor
    cutoff = 0.99 * min(old, new) / old  # per input sample
    width = int(np.ceil(6 / cutoff))
    at = np.arange(-(-len(audio) * new // old)) * old / new  # output times, in input samples
    taps = np.floor(at).astype(int)[:, None] + np.arange(-width, width + 2)
    distance = np.clip((at[:, None] - taps) * cutoff, -6, 6)
    kernel = np.sinc(distance) * np.cos(distance * np.pi / 12) ** 2 * cutoff
    padded = np.pad(audio.double().numpy(), (width, width + 2))
    return torch.from_numpy((kernel * padded[taps + width]).sum(1).astype(np.float32))


def load_audio(path: str) -> tuple[torch.Tensor, int]:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate_hz


class Silent:
    """A logger that takes every call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def stand_in() -> list[str]:
    """Put modules in place of those of NEEDED that are not installed; returns their names."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    if "torchaudio" in missing:
        module: Any = sys.modules["torchaudio"]
        module.load = load_audio
        module.functional = types.SimpleNamespace(resample=resample)
    if "loguru" in missing:
        module = sys.modules["loguru"]
        module.logger = Silent()
    return missing


class Recorder:
    """Follows one training run and its evaluation from outside: by wrapping methods of the trainer's instance."""

    def __init__(self, trainer: Any) -> None:
        from transformers import TrainerCallback

        recorder = self
        self.trainer = trainer
        self.steps: list[dict[str, Any]] = []
        self.tests: list[dict[str, Any]] = []
        self.initial: dict[str, torch.Tensor] = {}
        self.groups: list[dict[str, Any]] = []
        self.encoded: tuple[torch.Tensor, torch.Tensor | None] | None = None

        class Follow(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
                model.audio_encoder.register_forward_hook(recorder.keep_features)
                recorder.initial = trained(model)
                recorder.groups = decay_groups(model, trainer.optimizer)

            def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
                if "grad_norm" in logs:
                    recorder.steps[-1]["norm"] = float(logs["grad_norm"])

        trainer.add_callback(Follow())
        self._compute_loss, trainer.compute_loss = trainer.compute_loss, self.compute_loss
        self._prediction_step, trainer.prediction_step = trainer.prediction_step, self.prediction_step

    def keep_features(self, _module: Any, _inputs: Any, output: Any) -> None:
        self.encoded = (output[0].detach().clone(), None if output[1] is None else output[1].clone())

    def batch(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert self.encoded is not None
        features, mask = self.encoded
        return {name: value.clone() for name, value in inputs.items()} | {"features": features, "frames": mask}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rate = self.trainer.optimizer.param_groups[0]["lr"]
        loss = self._compute_loss(model, inputs, *args, **kwargs)
        self.steps.append(self.batch(inputs) | {"loss": float(loss.detach()), "rate": rate})
        return loss

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._prediction_step(model, inputs, *args, **kwargs)
        self.tests.append(self.batch(inputs) | {"generated": result[1].clone()})
        return result


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Projector, LoRA and encoder, by name."""
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if "lora_" in name or name.startswith(("audio_projector", "audio_encoder"))
    }


def decay_groups(model: Any, optimizer: Any) -> list[dict[str, Any]]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    keys = ("weight_decay", "betas", "eps")
    return [
        {key: group[key] for key in keys} | {"names": sorted(names[id(weight)] for weight in group["params"])}
        for group in optimizer.param_groups
    ]


def with_dropout(model: Any, share: float) -> Any:
    """The model with this LoRA dropout."""
    for module in model.decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
    return model


def dropped_loss(model: Any, inputs: dict[str, Any]) -> float:
    """The loss of a batch in training mode with its own LoRA dropout, the generator seeded with 0."""
    with_dropout(model, LORA_DROPOUT).train()
    model.audio_encoder.eval()
    hook = model.decoder.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)
    names = ("audio", "audio_attention_mask", "input_ids", "attention_mask", "labels")
    with torch.no_grad():
        loss = float(model(**{name: inputs[name] for name in names}).loss)
    hook.remove()
    return loss


def scenario(spec: dict[str, Any], name: str, encoder: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate once with an encoder built with these arguments."""
    from xares_llm import task as peer
    from xares_llm.audiowebdataset import AudioTextDataType

    known = inspect.signature(peer_arguments()).parameters
    peer.TrainingArguments = lambda **given: peer_arguments()(
        **{key: value for key, value in given.items() if key in known}, save_strategy="no"
    )
    config = peer.XaresLLMTrainConfig(
        audio_encoder_module_path="frame_encoder.py",
        audio_encoder_kwargs=encoder,
        output_dir="experiments",
        config_name=name,
        train_data=dict(spec["train"]),
        decoder_model_name=spec["decoder"],
        max_steps=spec["steps"],
        warmup_steps=spec["warmup_steps"],
        learning_rate=spec["learning_rate"],
        torch_num_threads=spec["threads"],
        logging_steps=1,
    )
    task = peer.XaresLLMTask(config)
    build = task.trainer.model_init
    task.trainer.model_init = lambda: with_dropout(build(), 0.0)
    recorder = Recorder(task.trainer)
    model = task.train_mlp()
    final = trained(model)
    tests = peer.XaresLLMEvaluationConfig(
        data=AudioTextDataType(name="test", **spec["test"]), metric="Accuracy", batch_size=8
    )
    score, answers = task.evaluate_mlp(eval_config=tests, trained_model=model)
    return {
        "steps": recorder.steps,
        "initial": recorder.initial,
        "final": final,
        "groups": recorder.groups,
        "tests": recorder.tests,
        "score": float(score),
        "answers": [list(map(str, row)) for row in answers[["predict", "labels"]].to_numpy().tolist()],
        "dropped_loss": dropped_loss(model, recorder.steps[0]),
    }


def peer_arguments() -> Any:
    from transformers import TrainingArguments

    return TrainingArguments


def data_side(spec: dict[str, Any]) -> dict[str, Any]:
    """What its data classes make of given audio, texts, weights and lengths."""
    from transformers import AutoTokenizer
    from xares_llm import audiowebdataset as peer

    tokenizer = AutoTokenizer.from_pretrained(spec["decoder"])
    prepared = []
    for index, path in enumerate(spec["audio"]):
        random.seed(index)
        audio, _ = peer.preprocess_audio(load_audio(path), normalize_clipped=True, crop_audio_length=30.0)
        prepared.append(audio.float())
    texts: dict[str, Any] = {}
    for text in spec["texts"]:
        sample = {"audio": (torch.zeros(16000), 16000), "tar": "t", "filename": "f", "text": {"text": text}}
        given = {"tokenizer": tokenizer, "prompt": spec["prompt"], "tokenizer_eos_token": tokenizer.eos_token}
        made = list(peer._process_sample_stream([sample], **given))  # noqa: SLF001 the peer's own function is looked at
        texts[text] = [made[0]["input_ids"], made[0]["labels"]] if made else None
    return {"audio": prepared, "texts": texts, "draws": mixture(spec, peer), "windows": windows(spec, peer, tokenizer)}


class Endless:
    """A source of one name: as much of a data pipeline as the peer's sampler asks for."""

    def __init__(self, name: str, shards: int) -> None:
        self.name = name
        self.pipeline = [types.SimpleNamespace(urls=[""] * shards)]

    def __iter__(self) -> Any:
        while True:
            yield self.name


def mixture(spec: dict[str, Any], peer: Any) -> dict[str, int]:
    random.seed(0)
    sources = [
        (peer.AudioTextDataType(data=[], name=name, prob=probability), Endless(name, shards))
        for name, probability, shards in spec["mixture"]
    ]
    drawn = dict.fromkeys((name for name, _, _ in spec["mixture"]), 0)
    stream = iter(peer.BalancedDatasetSampler(datasets=sources))
    for _ in range(spec["draws"]):
        drawn[next(stream)] += 1
    return drawn


class Numbered(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Draws of four pairs that know their number and have given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __iter__(self) -> Any:
        for start in range(0, len(self.lengths), 4):
            chunk = self.lengths[start : start + 4]
            yield {
                "number": list(range(start, start + len(chunk))),
                "input_ids": [[0] * length for length in chunk],
                "audio": [torch.zeros(0) for _ in chunk],
            }


def windows(spec: dict[str, Any], peer: Any, tokenizer: Any) -> list[list[int]]:
    """Its batches of numbered pairs."""
    data = peer.AudioTextTokenWebdataset(
        data_urls=[], tokenizer=tokenizer, training=True, batch_size=4, sort_by_length=128, num_workers=0
    )
    data.dataset = Numbered(spec["lengths"])
    loader = data.create_dataloader(collate_fn=lambda samples: [sample["number"] for sample in samples])
    return [list(map(int, batch)) for batch in loader]


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.chdir(spec["work"])
    os.environ |= {"XARES_DATA_HOME": str(Path("cache").absolute()), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    sys.path[:0] = [spec["work"], str(Path(spec["peer"]) / "src")]
    import transformers  # noqa: F401 before the stand-ins, which it would take for the real packages

    replaced = stand_in()
    record = {
        "versions": {name: installed(name) for name in VERSIONS},
        "replaced": replaced,
        "scenarios": {name: scenario(spec, name, encoder) for name, encoder in spec["scenarios"].items()},
        "data": data_side(spec),
    }
    torch.save(record, spec["out"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
