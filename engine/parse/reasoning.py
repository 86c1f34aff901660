"""How the families mark their reasoning."""

from typing import NamedTuple


class Tags(NamedTuple):
    """opens     any of these opens the block
    closes    any of these closes it
    then      marks that may follow the closing one, before the answer
    anywhere  the marks are tokens that mean nothing else: a block may begin in the middle of an answer
    lead      what the family writes before the closing mark
    after     and behind it, before the answer
    """

    opens: tuple[str, ...]
    closes: tuple[str, ...]
    then: tuple[str, ...] = ()
    anywhere: bool = False
    lead: str = ""
    after: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        return self.opens + self.closes + self.then

    def end_open(self, prompt: str) -> bool:
        """Does the prompt end inside the block, with nothing in it yet?"""
        return prompt.rstrip().endswith(self.opens)


THINK = Tags(("<think>",), ("</think>",), lead="\n", after="\n\n")
CHANNEL = Tags(("<|channel>thought",), ("<channel|>",), ("<|channel>final", "<|channel>"), anywhere=True)
BRACKETS = Tags(("[THINK]",), ("[/THINK]",), anywhere=True)
SEED = Tags(("<seed:think>",), ("</seed:think>",))
FAMILIES = (CHANNEL, BRACKETS, SEED, THINK)
