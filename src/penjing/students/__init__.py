"""Student models that are no BERT, distilled from one: they take its tokens and give logits."""
