"""Keys of other tools without a counterpart here: the reason, and what to do instead."""

import re

_PACKED = (
    "remove it: examples are always packed without padding, none attends to another, and"
    " speed.tokens_per_micro_batch sets how many tokens are computed at once"
)
_BALANCED = "remove it: nothing is padded here, so lengths may differ"
_ATTENTION = "remove it: attention over packed examples is chosen by device, and checked at the start of a run"
_LOGGED = "remove it: every step is written to metrics.jsonl, and to tensorboard/ where tensorboard is installed"
_COMPILED = "remove it: the operations that a compiler fuses are fused here already, without minutes of compiling"
_TRACKED = (
    "remove it: trackers are tensorboard, wandb, mlflow and trackio (tracking.report_to); their other settings are"
    " their own environment variables, such as WANDB_ENTITY"
)
_UPLOADED = (
    "remove it: nothing is uploaded; after training, sft merge RUN --out merged writes a plain transformers model,"
    " and hf upload NAME merged publishes it"
)
_FOUND_AGAIN = "remove it: prepared data are reused as long as the content they were made from is unchanged"
_NEVER_OVER = "remove it: each new run gets its own directory, and nothing is overwritten"
_ALWAYS = "remove it: the command decides: sft train trains, sft eval evaluates"
_PER_EPOCH = "remove it, or count in steps: {key}=N; without it, this happens at the end of every epoch"
_PROCESSES = "remove it: the processes of a run connect without it; distributed=fsdp shards the model"
_ONE_ROW = (
    "remove it: one process computes one row, because torch's ring attention does not support rows that hold several"
    " examples; speed.gradient_checkpointing=offload and distributed=fsdp free memory for long rows"
)

_TEXT_ONLY = "remove it: this is fine-tuning on text only"
_METHOD = "remove it: this method is not implemented here; sft docs optimizers, losses and adapters name those that are"
_STORED = (
    "remove it: the base is stored as quant= says, none, nf4, fp4 or int8; a checkpoint that is quantized already keeps"
    " its own storage"
)
_OWN_KERNELS = (
    "remove it: kernels are chosen by device and model; speed.kernels and speed.fused switch those that are here"
)
_TOKENIZER = "remove it: the tokenizer's own files decide; another tokenizer is named by model.tokenizer=DIR"
_SCHEDULE = "remove it: the warm-up is linear, and trainer.schedule names the schedules"

UNSUPPORTED = {
    **dict.fromkeys(("sample_packing", "neat_packing", "padding_free", "packing_strategy"), _PACKED),
    **dict.fromkeys(("eval_packing", "eval_sample_packing", "multipack", "pad_to_sequence_len"), _PACKED),
    **dict.fromkeys(("group_by_length", "length_column_name", "train_sampling_strategy"), _BALANCED),
    **dict.fromkeys(("pad_to_multiple_of", "padding", "padding_side", "dynamic_padding"), _BALANCED),
    **dict.fromkeys(("attn_implementation", "flash_attention", "flash_attn", "use_flash_attn"), _ATTENTION),
    **dict.fromkeys(("flash_attn_2", "sdp_attention", "xformers_attention", "eager_attention"), _ATTENTION),
    **dict.fromkeys(("logging_steps", "logging_strategy", "logging_dir", "log_every", "logging_first_step"), _LOGGED),
    **dict.fromkeys(("adam_epsilon", "optimizer_epsilon"), "remove it: epsilon is 1e-8, the default of torch"),
    **dict.fromkeys(("compile", "torch_compile", "torch_compile_backend", "torch_compile_mode"), _COMPILED),
    **dict.fromkeys(("push_to_hub", "upload", "huggingface_repo"), _UPLOADED),
    **dict.fromkeys(("overwrite_cache", "load_from_cache_file", "cache_dir", "use_cached_dataset"), _FOUND_AGAIN),
    **dict.fromkeys(("overwrite_output_dir", "overwrite", "force"), _NEVER_OVER),
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "predict_with_generate"), _ALWAYS),
    "evals_per_epoch": _PER_EPOCH.format(key="trainer.eval_every"),
    "saves_per_epoch": _PER_EPOCH.format(key="trainer.save_every"),
    "use_cache": "remove it: training never keeps a cache",
    "remove_unused_columns": "remove it: columns that no format reads are ignored",
    "dataloader_num_workers": "remove it: a worker of the run prepares batches ahead",
    "dataloader_pin_memory": "remove it: batches are copied from pinned memory if there is a GPU",
    "dataloader_drop_last": "remove it: every example of an epoch is trained on",
    "tf32": "remove it: float32 matrix products use TF32 on every CUDA GPU that supports it",
    "strict": "remove it: unknown keys are always refused",
    "plot_loss": "remove it: no plot is written; metrics.jsonl and tensorboard/ hold the loss of every step",
    "special_tokens": "remove it: the tokenizer's own special tokens are used; new ones: model.add_tokens=[TOKEN]",
    "include_tokens_per_second": "remove it: every step's line in metrics.jsonl has its tokens per second",
    "include_num_input_tokens_seen": "remove it: every step's line in metrics.jsonl has its tokens",
    "disable_tqdm": "remove it: the progress line is shown only on a terminal",
    "low_cpu_mem_usage": "remove it: weights are loaded directly to the device",
    "is_llama_derived_model": "remove it: the type is read from the model's config.json",
    "model_type": "remove it: the type is read from the model's config.json",
    "tokenizer_type": "remove it: the type is read from the tokenizer's files",
    "use_fast_tokenizer": "remove it: the fast tokenizer is always used",
    "add_generation_prompt": "remove it: the prompt ends as the template's generation prompt does",
    "temperature": "remove it: answers are generated greedily; a suite has eval.suites.<name>.temperature"
    " (data.temperature is about mixing sources)",
    "do_sample": "remove it: answers are generated greedily",
    "top_p": "remove it: answers are generated greedily; a suite has eval.suites.<name>.top_p",
    "dpo_beta": "remove it: this is supervised fine-tuning only, no preference training",
    "rl": "remove it: this is supervised fine-tuning only, no preference training",
    "reward_model": "remove it: this is supervised fine-tuning only, no preference training",
    **dict.fromkeys(
        ("suite", "task", "benchmark", "benchmarks", "eval_tasks", "num_fewshot"),
        "remove it: sft eval measures suites and tasks of lm-evaluation-harness after training; its page of the"
        " documentation lists them",
    ),
    **dict.fromkeys(("context_parallel", "context_parallel_size", "cp_size", "sequence_parallel_size"), _ONE_ROW),
    "ignore_data_skip": "remove it: a resumed run skips the rows that were trained on",
    **dict.fromkeys(
        ("plugins", "use_kernels", "use_v1_kernels", "experts_implementation", "cut_cross_entropy"), _OWN_KERNELS
    ),
    **dict.fromkeys(
        ("eval_batch_size", "per_device_eval_batch_size"),
        "remove it: held-out loss is computed in batches of"
        " speed.tokens_per_micro_batch, and eval.batch_size counts the prompts generated at once",
    ),
    **dict.fromkeys(("cosine_constant_lr_ratio", "eta_min", "lr_quadratic_warmup"), _SCHEDULE),
    **dict.fromkeys(("fp8", "qat", "gptq", "reinit_weights", "use_onebitllms", "quantization_device_map"), _STORED),
    **dict.fromkeys(
        ("adam_eps", "optim_args"), "remove it: epsilon is 1e-8; trainer.betas and trainer.weight_decay are keys"
    ),
    **dict.fromkeys(("device_map", "experimental_skip_move_to_device", "local_rank"), _PROCESSES),
    "gradient_checkpointing_kwargs": "remove it: recomputation is never reentrant",
    "activation_checkpointing_kwargs": "remove it: recomputation is never reentrant",
    "eot_tokens": "remove it: the stop token of a turn is found in the template, and checked in every row",
    "skip_prepare_dataset": "remove it: rows are always prepared, and their masks proven",
    "dataset_kwargs": "remove it: rows are always prepared, and their masks proven",
    "save_only_model": "remove it: a checkpoint holds all that resuming needs; the result is saved separately",
    "save_safetensors": "remove it: weights are always saved as safetensors",
    "lora_fan_in_fan_out": "remove it: the layout of a weight is read from the type of its layer",
    "resize_token_embeddings_to_32x": "remove it: embeddings get one row for each of model.add_tokens",
    "preprocessing_batch_size": "remove it: rows are prepared in pieces that fit into memory",
    "debug": "remove it: sft inspect shows the tokens and the mask of prepared rows",
    "average_tokens_across_devices": "remove it: the loss is always a mean over the trained tokens of all devices",
    "ignore_pad_token_for_loss": "remove it: nothing is padded, and padding never carries loss",
    "max_new_seq_length": "remove it: eval.max_new_tokens=N bounds the answers of an evaluation",
}
"""Key -> the reason it has no counterpart here, and what to write instead if anything."""

_FAMILIES = (
    (r"(wandb|mlflow|comet|swanlab|neptune|trackio|clearml)(_\w+)?", _TRACKED),
    (r"(hub|hf_hub|push_to_hub)_\w+", _UPLOADED),
    (r"(ddp|fsdp|deepspeed|accelerate)_\w+", _PROCESSES),
    (
        r"loss_watchdog_\w+",
        "remove it: a sudden rise of the loss is recorded in spikes.jsonl; see trainer.spike_factor",
    ),
    (r"liger_\w+|\w+_kernels?|chunked_cross_entropy\w*|use_(scatter|sonic)moe|tiled_mlp\w*|\w+_fusion", _OWN_KERNELS),
    (r"(flash|flex|sage|sdpa|fused|large_head|gemma4_hybrid|xformers)_(attn|attention|optimum|varlen)\w*", _ATTENTION),
    (r"((image|video|audio)_\w+|freeze_(vision|multi_modal|mm|language)_\w+|processor_\w+|media_dir)", _TEXT_ONLY),
    (
        r"(use_)?(q?galore|apollo|badam|relora|lisa|jagged|eaft|asft|dion|adam_mini|llama_pro|mixture_of_depths|kt)(_\w+)?",
        _METHOD,
    ),
    (r"(fp8|nvfp4|gptq|model_quantization|quantize_moe|bnb_4bit)_\w+", _STORED),
    (
        r"(expert|tensor|pipeline)_(model_)?parallel\w*|sequence_parallel|dp_\w+_size|ray_\w+|use_ray|overlap_\w+",
        _PROCESSES,
    ),
    (r"tokenizer_\w+", _TOKENIZER),
    (r"(use_)?(otel|tensorboard|trackio|wandb)(_\w+)?|(log|logging)_\w+|project_name|project", _TRACKED),
    (r"(export|vllm|infer)_\w+", "remove it: sft export and sft merge write models, and inference servers serve them"),
    (r"dataloader_\w+", "remove it: a worker of the run prepares batches ahead"),
    (r"(ref_model|dpo|kto|orpo|grpo|ppo|reward|simpo|rloo)_\w+", UNSUPPORTED["rl"]),
    (r"(vllm|sglang|infer)_\w+", "remove it: the merged model (sft merge) can be served by inference servers"),
)
"""Patterns of keys that share an answer."""


def unsupported_reason(name: str) -> str | None:
    """Return why another tool's key has no counterpart here, and what to do; None for an unknown key."""
    if (reason := UNSUPPORTED.get(name)) is not None:
        return reason
    return next((reason for pattern, reason in _FAMILIES if re.fullmatch(pattern, name)), None)
