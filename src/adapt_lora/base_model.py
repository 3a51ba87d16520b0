"""Where `adapt_lora.model.base` was before; scripts that name it here go on working."""

from adapt_lora.model.base import (
    BaseIdentity,
    BaseModel,
    find_base_folder,
    find_base_model,
    load_base_model,
)

__all__ = ["BaseIdentity", "BaseModel", "find_base_folder", "find_base_model", "load_base_model"]
