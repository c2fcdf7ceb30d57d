"""Students that are not BERT, taught by one: they take its tokens and give logits."""
