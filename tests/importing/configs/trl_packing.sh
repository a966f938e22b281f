trl sft --model_name_or_path Qwen/Qwen2-0.5B --dataset_name trl-lib/Capybara --learning_rate 2.0e-5 \
  --num_train_epochs 1 --packing --per_device_train_batch_size 2 --gradient_accumulation_steps 8 \
  --eos_token '<|im_end|>' --output_dir Qwen2-0.5B-SFT --push_to_hub --no_gradient_checkpointing
