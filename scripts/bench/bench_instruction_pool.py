"""Measure how long the pool of self-instruct takes to grow to a number of instructions.

    python scripts/bench/bench_instruction_pool.py [size]

The texts have 5 to 20 words with the frequencies of Zipf's law; one in five is a text of the pool with one more word.
"""

import random
import sys
import time

from sft_cli.synth.pool import InstructionPool

WORDS = 20_000


def main() -> None:
    """Grow a pool of 50,000 instructions, or of the size on the command line, and print the time."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    choose, pool = random.Random(0), InstructionPool(0.7)
    words, weights = [f"w{rank}" for rank in range(WORDS)], [1 / (rank + 2) for rank in range(WORDS)]
    began, tried = time.process_time(), 0
    while len(pool.texts) < size:
        tried += 1
        is_copy = bool(pool.texts) and choose.random() < 0.2
        drawn = choose.choices(words, weights, k=choose.randint(5, 20))
        text = f"{choose.choice(pool.texts)} w1" if is_copy else " ".join(drawn)
        if pool.similar(text) is None:
            pool.add(text)
    print(f"{size:,} instructions of {tried:,} in {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
