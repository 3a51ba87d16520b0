"""Numbers in, ranking out: which adapter helps on an unseen task, how much, and how surely."""

from adapt_lora.recommender.answer import Recommendation
from adapt_lora.recommender.ranking import rank_adapters

__all__ = ["Recommendation", "rank_adapters"]
