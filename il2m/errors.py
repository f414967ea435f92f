"""The one error that is the user's to mend."""


class InputError(ValueError):
    """What was given can't be used: the message says what, what was found, what is expected and what to do."""
