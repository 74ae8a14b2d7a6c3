"""A reward of your own: a function in a file, which takes a prompt and a completion and gives a number.

plumb train grpo --data prompts.txt --reward examples/own_reward.py:likes_windows --out runs/windows
"""


def likes_windows(prompt: str, completion: str) -> float:
    """One for each window, and up to one for being short."""
    return completion.lower().count("window") + max(0, 40 - len(completion)) / 40


def all_at_once(prompts: list[str], completions: list[str]) -> list[float]:
    """The same for a whole iteration in one call, as a model or a service would want it."""
    return [likes_windows(*each) for each in zip(prompts, completions, strict=True)]
