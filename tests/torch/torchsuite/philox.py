"""The generator of random numbers on NVIDIA GPUs, for a seed's first numbers."""

from __future__ import annotations


def philox(seed: int, count: int) -> list[float]:
    """What `torch.rand(count)` gives on any NVIDIA GPU after `torch.manual_seed(seed)`, before rounding to fp32.

    Thread i draws from Philox 4x32-10 with the seed as its key and i as its subsequence (Salmon et al., "Parallel
    random numbers: as easy as 1, 2, 3", 2011), and cuRAND makes x·2^-32 + 2^-33 of the first word.
    """
    return [_philox_word(seed, subsequence) * 2.0**-32 + 2.0**-33 for subsequence in range(count)]


def _philox_word(seed: int, subsequence: int) -> int:
    low = 0xFFFFFFFF
    key = [seed & low, seed >> 32]
    counter = [0, 0, subsequence & low, subsequence >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(second >> 32) ^ counter[1] ^ key[0], second & low, (first >> 32) ^ counter[3] ^ key[1], first & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return counter[0]
