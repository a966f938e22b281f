#!/bin/bash
MODEL=meta-llama/Llama-3.2-1B
export WANDB_MODE=offline
accelerate launch --num_processes 4 trl/scripts/sft.py \
    --model_name_or_path $MODEL \
    --dataset_name trl-lib/tldr --completion_only_loss \
    --use_peft --load_in_4bit --use_bnb_nested_quant \
    --lora_r 16 --lora_alpha 32 --lora_target_modules q_proj k_proj v_proj o_proj \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 8 \
    --max_length 512 --max_steps 500 --warmup_steps 50 \
    --learning_rate 2e-4 --output_dir out
