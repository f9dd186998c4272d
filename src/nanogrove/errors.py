"""Every error a user can cause or meet.

NanogroveError          one line: what is wrong, where, and what to do; the command line exits with code 2
├── PresetError         a preset, an override, or a combination of settings that makes no sense
├── DataError           a corpus or tokenizer that cannot be read or used
├── CheckpointError     a checkpoint that is damaged, refused, or could not be written
├── RunError            a run folder that is missing, in use, or already holds a run
└── DivergedError       training produced a loss that is no number or far above a uniform guess
"""


class NanogroveError(Exception):
    """Base of all errors nanogrove raises on purpose; its text is written for the person at the keyboard.

    >>> try:
    ...     nanogrove.load("runs/nowhere")
    ... except nanogrove.NanogroveError as error:
    ...     print(error)
    runs/nowhere: neither a run nor a checkpoint; give a folder such as runs/NAME
    """


class PresetError(NanogroveError):
    """A preset, an override, or a combination of settings that makes no sense."""


class DataError(NanogroveError):
    """A corpus or tokenizer that cannot be read or used."""


class CheckpointError(NanogroveError):
    """A checkpoint that is damaged, refused, or could not be written."""


class RunError(NanogroveError):
    """A run folder that is missing, in use, or already holds a run."""


class DivergedError(NanogroveError):
    """Training produced a loss that is no number or far above a uniform guess."""
