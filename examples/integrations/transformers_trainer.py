"""Trains a small GPT-2 with transformers' Trainer on CPUs.

    FASTGPU_REPLACE_GLOO=1 torchrun --nproc-per-node 2 transformers_trainer.py

The Trainer accepts only backends that it knows, so fastgpu takes gloo's place. `use_cpu=True` is
necessary even on a machine that has no GPU.
"""

import tempfile

import torch
import torch.distributed as dist
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed


def main() -> None:
    """Learns to count modulo 50."""
    set_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    texts = [(torch.arange(16) + start) % 50 for start in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            ddp_backend="gloo",
            max_steps=20,
            per_device_train_batch_size=4,
            learning_rate=3e-3,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=GPT2LMHeadModel(config),
            args=settings,
            train_dataset=[{"input_ids": text, "labels": text} for text in texts],
        )
        result = trainer.train()
        if trainer.is_world_process_zero():
            print(f"loss {result.training_loss:.9g} on {dist.get_backend_config()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
