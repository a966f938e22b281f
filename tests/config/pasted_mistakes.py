"""Command lines with a mistake; test_pasted_fixes.py pastes their fixes."""

MISTAKES = """
show | adapter.target_modules=q_proj,v_proj
show | "adapter.target_modules='[q_proj, v_proj]'"
show | adapter.target_modules=[q_proj, v_proj]
show | adapter.target_modules=(q_proj,v_proj)
show | adapter.target_modules=q_proj
show | adapter.target_modules=[q_proj,v_proj
show | 'adapter.target_modules=q_proj v_proj'
show | adapter.target_modules=3
show | recipie=quickstart
show | trainer.lr=0,0001
show | trainer.lr=2e-4,
show | trainer.lr=-1e-4
show | trainer.lr=10^-4
show | trainer.lr=2x10^-4
show | trainer.lr=1/5000
show | trainer.lr=“2e-4”
show | trainer.lr==2e-4
show | trainer.lr = 2e-4
show | trainer.lr= 2e-4
show | trainer.lr =2e-4
show | trainer.lr: 2e-4
show | trainer.lr:2e-4
show | trainer.lr 2e-4
show | trainer.lr=
show | trainer.lr
show | trainer.lr=fast
show | trainer.lr=0
show | trainer.lr=nan
show | trainer.lr=null
show | trainer.lr=1e-4,2e-4
show | trainer.lr.x=1e-4
show | trainer.optimizer.lr=1e-4
show | trainer.lrr=1e-4
show | trainr.lr=1e-4
show | Trainer.LR=1e-4
show | trainer/lr=1e-4
show | +trainer.lr=1e-4
show | ++trainer.lrr=1e-4
show | ~data.mix
show | lr=1e-4
show | learning_rate=2e-5
show | --lr 3e-4
show | --learning-rate=2e-5
show | -lr 3e-4
show | trainer.epochs=3.0
show | trainer.epochs=2.5
show | trainer.epochs=3,0
show | trainer.epochs=three
show | num_train_epochs=3.0
show | num_epochs=3
show | epochs=3
show | trainer.max_steps=-1
show | trainer.max_steps=0
show | data.val_rows=0
show | trainer.max_steps=none
show | max_steps=-1
show | trainer.eval_every=0
show | trainer.save_every=0.5
show | trainer.max_length=2k
show | trainer.max_length=4,096
show | trainer.max_length=4
show | trainer.max-length=512
show | max_len=512
show | cutoff_len=1024
show | trainer.seed=-1
show | trainer.keep_best=yes
show | trainer.keep_best=Nope
show | speed.packing=0
show | trainer.betas=0.9,0.95
show | trainer.betas=[0.9]
show | trainer.betas=(0.9,0.95)
show | trainer.schedule=cosin
show | trainer.schedule=Cosine
show | trainer.schedule=cosine_with_restarts
show | trainer.schedule=banana
show | trainer.optimizer=adamw_torch
show | trainer.device=gpu
show | trainer.dtype=bf16
show | speed.gradient_checkpointing=true
show | gradient_checkpointing=true
show | trainer.warmup_ratio=3
show | warmup_steps=100
show | data.val_fraction=10
show | data.val_fraction=1
show | data.val_fraction=0,1
show | data.val_fraction=ten
show | val_set_size=500
show | val_set_size=0.05
show | data.budget.dropped=5
show | adapter.dropout=1
show | adapter.rank=0
show | adapter.rank=8,16
show | adapter.rank=16.0
show | adapter.alpha=abc
show | quant=nf4,int8
show | data.path=rows.jsonl
show | data.format=alpaca
show | dataset=rows.jsonl
show | train_file=rows.jsonl
show | train=rows.jsonl
show | datasets=[{path: rows.jsonl, type: alpaca}]
show | datasets=[{path: a.jsonl}, {path: b.jsonl}]
show | data.mix.a=rows.jsonl
show | data.mix.a.pth=rows.jsonl
show | data.mix.a.columns=prompt:Ticket
show | data.mix.a.columns={prompt: Ticket, completion: Reply}
show | data.mix.a.path=my rows.jsonl
show | a.jsonl b.jsonl
show data=alpaca | rows.jsonl
show | mine.yaml
show | quickstart
show | qickstart
show | recipe=qickstart
show | recipe=alpaca
show | recipe=mine
show | recipe=./mne.yaml
show | config=mine.yaml
show | --config mine.yaml
show | --config=mine.yaml
show | adapter=qlora
show | adapter=full
show | adapter=lra
show | quant=nf5
show | quant=4bit
show | template=qwen
show | template=chatm
show | chat_template=chatml
show | clean=none
show | clean.steps=pii
show | launcher.partition=gpu
show | trainer.min_lr_ratio=0.2
show | adapter=none quant=nf4
show | run_name=a/b
show | finetuning_type=full
show | lora_r=16
show | lora_target=all
show | lora_target=q_proj,v_proj
show | load_in_4bit=true
show | bf16=true
show | fp16=false
show | gradient_accumulation_steps=4 micro_batch_size=2
show | gradient_accumulation_steps=4
show | per_device_train_batch_size=8
show | batch_size=8
show | optim=adamw_torch_fused
show | lr_scheduler_type=constant_with_warmup
show | adam_beta2=0.95
show | deepspeed=zero3.json
show | ddp_timeout=1800
show | tf32=true
show | report_to=wandb
show | tracking.report_to=wanb
show | notify.url=host
show | wandb_project=mine
show | --wandb-project mine
show | push_to_hub=true
show | hub_model_id=me/mine
show | logging_steps=10
show | plot_loss=true
show | overwrite_cache=true
show | overwrite_output_dir=true
show | strict=false
show | stage=sft
show | stage=dpo
show | special_tokens={pad_token: x}
show | evals_per_epoch=2
show | eval_strategy=epoch
show | eval_strategy=steps
show | eval_steps=50
show | save_total_limit=3
show | temperature=0.7
show | eval.suite=mmlu
show | output_dir=out
show | enable_thinking=false
show | system_prompt=hello
show | data.system=You are helpful
show | loss=token
show | data=[alpaca,lima
show | zzz=1
show | data.stages.0.share=2
show | data.stages=[a]
show | gpu=24GB
show | resume=runs/s2
show | run=runs/s2
show | --changd
show | --version
train | runs/s2
train | resume=runs/s2
train | run=runs/s2
train | --resume=
train | resume_from_checkpoint=runs/s2/checkpoints/step-5
train | resume_from_checkpoint=true
train data.mix.a.path=rows.jsonl | --dry-run
train data.mix.a.path=rows.jsonl | --foo
train data.mix.a.path=rows.jsonl | launcher=slurm
prepare recipe=./tiny.yaml data.mix.a.path=number.jsonl |
prepare recipe=./tiny.yaml data.mix.a.path=empty.jsonl |
prepare recipe=./tiny.yaml trainer.max_length=128 data.mix.a.path=long.jsonl |
prepare recipe=./tiny.yaml data.mix.a.path=frage.jsonl | "data.mix.a.columns={prompt: frage, completion: antwrt}"
prepare recipe=./tiny.yaml data.mix.a.path=frage.jsonl | "data.mix.a.columns={promt: frage, completion: antwort}"
prepare recipe=./tiny.yaml data.mix.a.path=a.jsonl | data.mix.a.format=alpacca
eval | run=runs/s2
eval | run=runs/s2 compare=base
eval | data=rows.jsonl
eval runs/s2 | --compare runs/b
eval runs/s2 | --comprae base
eval runs/s2 | step=5
eval nowhere |
eval runs/s2/adapter |
eval sweep |
chat sweep | --prompt hello
train | --resume sweep
train | help
train | config.yaml
train | recipe=./config.yml
train rows.jsonl | run=r1
train rows.jsonl | out=r1
prepare rows.jsonl template=alpaca | model=quickstart/model
docs | masks
eval | model=runs/s2
eval |
merge | run=runs/s2
merge | run=runs/s2 out=merged into=dequantized max_kl=0.1
merge | --run runs/s2 --max_kl 0.1
merge runs/s2 | --max-kl 0,001
merge runs/s2 | --into orignal
merge runs/s2 | --out
merge runs/s2 | trainer.lr=1
chat | run=runs/s2 prompt=hello
inspect |
inspect | prepared=prepared worst=longest n=1
inspect prepared | --worst longst
inspect prepared | -n 0
inspect prepared | longest
inspect runs/s2 |
inspect sweep |
inspect nowhere |
inspect rows.jsonl |
inspect prepared | -n x
eval runs/s2 | --step x
train | --resume runs/s2 trainer.seed=7
eval runs/s2 | data.mix.q.path=rows.jsonl
eval runs/s2 | trainer.lr=1
check data.mix.a.path=rows.jsonl | gpu=24GB price=2 rows=10
check data.mix.a.path=rows.jsonl | --price 0,5
check data.mix.a.path=rows.jsonl | --rows all_of_them
check data.mix.a.path=rows.jsonl | --gpu rtx9
check data.mix.a.path=rows.jsonl | --tokens-per-second 5 --like runs/s2
sweep trainer.lr=1e-4,2e-4 | parallel=2 sweep_dir=s
sweep trainer.lr=1e-4,2e-4 | --parallel two
sweep trainer.lr=1e-4,2e-4 | --parallel 0
sweep trainer.lr=1e-4,2e-4 | --mode largest
sweep | sweep=runs/s2
sweep | --resume runs/s2
submit recipe=quickstart | launcher=local
sweep | trainer.lr=1e-4
sweep | adapter.target_modules=q_proj,v_proj
recipes | alpca_lora
show --keys | zzz
| trian data.mix.a.path=rows.jsonl
| finetune data.mix.a.path=rows.jsonl
| help
| help train
| --help train
| slurm recipe=quickstart
| rows.jsonl
| --lr 3
| formats alpaca
| doctor now
"""
