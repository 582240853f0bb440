"""Text in, batches out: generators, corpora, tokenizers, the cache of token ids, batching and loading."""
