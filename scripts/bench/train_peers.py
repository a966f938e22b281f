"""The other trainers of bench_train.py, each in its own process: TRL's SFTTrainer, a plain Trainer, a loop by hand.

Called by bench_train.py with a JSON file of settings.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

BORN = time.perf_counter()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import PeftModel  # noqa: E402
from train_loop import train_by_hand  # noqa: E402
from train_work import Result  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402


class Clock(TrainerCallback):
    """Trainer callback that measures the seconds of every step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.first = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.steps.append(time.perf_counter() - self._begin)
        self.first = self.first or time.perf_counter() - BORN


def main() -> None:
    """Train and write the result."""
    work = json.loads(Path(sys.argv[1]).read_text())
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(work["threads"])
    rows = [json.loads(line) for line in Path(work["rows"]).read_text().splitlines()]
    rows = [rows[place] for place in work["order"]]
    half = work["dtype"] == "bfloat16"
    # On CUDA these trainers load bfloat16 weights, as users do; on a CPU float32 weights with autocast are faster.
    quantized: dict[str, Any] = {}
    if work["quant"] == "nf4":
        stored = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        quantized = {"quantization_config": stored, "device_map": {"": 0 if cuda else "cpu"}}
    model = AutoModelForCausalLM.from_pretrained(
        work["model"], dtype=torch.bfloat16 if half and cuda else torch.float32, **quantized
    )
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(work["tokenizer"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    adapted = PeftModel.from_pretrained(model, work["adapter"], is_trainable=True)
    if work["who"] == "loop":
        return train_by_hand(work, adapted, rows, half, BORN).write(Path(work["result"]))
    train = trl_trainer if work["who"] == "trl" else plain_trainer
    clock = Clock()
    trainer = train(work, adapted, tokenizer, Dataset.from_list(rows), clock, half)
    counts: list[tuple[int, int]] = []
    usual = trainer.training_step

    def counting(model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **named: Any) -> Any:
        trained = int((inputs["labels"] != -100).sum())
        mask = inputs.get("attention_mask")
        counts.append((int(inputs["input_ids"].numel() if mask is None else mask.sum()), trained))
        return usual(model, inputs, *rest, **named)

    trainer.training_step = counting
    trainer.train()
    warm = work["warm"]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    Result(
        seconds=clock.steps[warm:],
        tokens=[count[0] for count in counts[warm:]],
        trained=[count[1] for count in counts[warm:]],
        losses=losses,
        peak=torch.cuda.max_memory_allocated() if cuda else 0,
        reserved=torch.cuda.max_memory_reserved() if cuda else 0,
        start=clock.first,
    ).write(Path(work["result"]))


def common(work: dict[str, Any], half: bool) -> dict[str, Any]:
    """Return the arguments common to every Trainer."""
    return {
        "output_dir": work["scratch"],
        "use_cpu": not torch.cuda.is_available(),
        "bf16": half,
        "gradient_checkpointing": work["checkpointing"],
        "num_train_epochs": 1,
        "learning_rate": work["lr"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 0,
        "disable_tqdm": True,
    }


def trl_trainer(work: dict[str, Any], model: Any, tokenizer: Any, rows: Any, clock: Clock, half: bool) -> Any:
    """Return an SFTTrainer: padded, padding-free, or packed by best fit."""
    from trl import SFTConfig, SFTTrainer

    packed = work["mode"] == "packing"
    arguments = SFTConfig(
        **common(work, half),
        per_device_train_batch_size=work["packs"] if packed else work["examples"],
        max_length=work["longest"] if packed or work["mode"] == "padded" else None,
        packing=packed,
        padding_free=work["mode"] == "padding_free",
        train_sampling_strategy="sequential",
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[clock],
    )


def plain_trainer(work: dict[str, Any], model: Any, tokenizer: Any, rows: Any, clock: Clock, half: bool) -> Any:
    """Return a transformers Trainer for a PEFT model, padded, with full logits, as in tutorials."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    arguments = TrainingArguments(
        **common(work, half),
        per_device_train_batch_size=work["examples"],
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        callbacks=[clock],
    )


main()
