"""What a user says of a base that its files do not say, or say wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dreamcache.models.errors import AdapterError

if TYPE_CHECKING:
    from transformers import CLIPTextModel

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Overrides:
    """Each comes before the configs; the default leaves them as they are.

    Attributes:
        prediction: what the UNet predicts, noise or velocity.
        zero_terminal_snr: the last timestep of training holds no signal (Lin et al. 2023, arXiv 2305.08891).
        clip_skip: last layers of the text encoder to leave out, counted as diffusers' ``clip_skip`` counts them.
        ema: of a checkpoint: the averaged copy of the UNet, in the place of the trained one.
    """

    prediction: Prediction | None = None
    zero_terminal_snr: bool = False
    clip_skip: int = 0
    ema: bool = False

    def schedule(self) -> dict[str, Any]:
        """Entries of a scheduler config."""
        entries: dict[str, Any] = {} if self.prediction is None else {"prediction_type": self.prediction}
        return entries | ({"rescale_betas_zero_snr": True} if self.zero_terminal_snr else {})


AS_CONFIGURED = Overrides()


def skip_layers(name: str, text_encoder: CLIPTextModel, layers: int, *, alone: bool = True) -> None:
    """Leave the last layers out, in place; the final norm stays, as in diffusers.

    Raises:
        AdapterError: not a number of layers that leaves one, or one of two text encoders.
    """
    if not layers:
        return
    if not alone:
        raise AdapterError(
            f"--clip-skip: {name} has two text encoders, as SDXL does, and takes none; leave it out"
        )
    most = int(text_encoder.config.num_hidden_layers) - 1
    if not 0 <= layers <= most:
        raise AdapterError(
            f"--clip-skip: a number of layers from 0 to {most} is expected for {name}, received {layers}"
        )
    encoder = text_encoder.text_model.encoder
    encoder.layers = encoder.layers[: most + 1 - layers]
    text_encoder.config.num_hidden_layers = most + 1 - layers
