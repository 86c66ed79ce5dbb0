"""What is not a mistake of this program's: the command tells it in a line, without a traceback."""


class UserError(Exception):
    """The input, the output, the model, the device or an argument is not as it should be; says which, and why."""


class DeviceError(UserError, RuntimeError):
    """The device does not compute what it should."""


class ArgumentError(UserError, ValueError):
    """An argument or option has a value that makes no sense, or that this machine or model does not have."""


class FastaError(UserError, ValueError):
    """The input cannot be read, is not FASTA, or has a record that cannot be embedded and must not be skipped."""
