"""How the methods of a Trainer find, or make, the attachment they share."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from thunderstone.attachment.attachment import Attachment
from thunderstone.attachment.method import Method
from thunderstone.lightning_private import callbacks_of, set_callbacks


def attach(trainer: Trainer, module: LightningModule) -> Attachment:
    """The attachment of this Trainer's current fit, made by whichever method asks first.

    Raises:
        CompositionError: Two methods own one resource.
        UnsupportedSettingError: A method cannot work with this module or strategy.
        HookError: A method's hook is misspelt or asks for arguments the hook does not have.
    """
    for callback in list(callbacks_of(trainer)):
        current = callback._attachment if isinstance(callback, Method) else None
        if current is not None and current.active and current.trainer is trainer:
            return current
        if current is not None and not current.active:
            # Of a fit that failed: Lightning calls no `teardown` then.
            current.detach()
    resume = _exact_resume(trainer)
    methods = [callback for callback in callbacks_of(trainer) if isinstance(callback, Method)]
    try:
        attachment = Attachment(trainer, module, methods, inserted=resume)
    except BaseException:
        if resume is not None:
            set_callbacks(trainer, [callback for callback in callbacks_of(trainer) if callback is not resume])
        raise
    if resume is not None:
        # Lightning is in the middle of its own round of `setup` calls over the list as it was.
        resume.setup(trainer, module, "fit")
    return attachment


def _exact_resume(trainer: Trainer) -> Method | None:
    from thunderstone.resume import ExactResume

    if any(isinstance(callback, ExactResume) for callback in callbacks_of(trainer)):
        return None
    resume: Method = ExactResume()
    # First in the list, and in a list of its own: Lightning is iterating over the present one.
    set_callbacks(trainer, [resume, *callbacks_of(trainer)])
    return resume
