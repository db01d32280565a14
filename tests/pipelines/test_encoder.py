"""The real encoder on the real weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.bert import Bert, is_bert
from pipelines.chunk import Chunker, ChunkSettings
from pipelines.encoder import SentenceEncoder
from pipelines.parse_text import parse_text

FOLDER = Path(__file__).parents[2] / ".objecta" / "models" / "all-minilm-l6-v2"
TEXTS = ["Salaries are paid monthly.", "", "The cat sat. " * 200, "Wages arrive every month.", "Rain falls in autumn."]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the default embedder is not pulled: make install")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(FOLDER)


def test_vectors_are_unit_rows_in_the_order_given(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dimensions) == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert float((vectors * alone).sum(axis=1).min()) > 0.999


def test_likeness_is_meaning(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors[0] @ vectors[3] > 0.6 > 0.3 > vectors[0] @ vectors[4]


def test_nothing_in_nothing_out(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_tokens_are_counted_untruncated_with_their_marks(encoder: SentenceEncoder) -> None:
    assert encoder.count_tokens(["", "salaries", "a b c " * 500]) == [2, 3, 1502]
    assert encoder.max_tokens == 256


def test_a_text_s_own_tokens_are_the_text_with_or_without_its_marks(encoder: SentenceEncoder) -> None:
    ids = encoder._tokenizer.encode("Salaries are paid monthly.").ids
    texts = ["Salaries are paid monthly.", tuple(ids), tuple(ids[1:-1])]
    assert encoder.count_tokens(texts) == [len(ids)] * 3
    vectors = encoder.encode(texts)
    assert float((vectors @ vectors[0]).min()) > 0.9999
    assert max(ids) < encoder.vocabulary == 30_522


def test_what_lies_beyond_the_limit_is_ignored(encoder: SentenceEncoder) -> None:
    long = "a " * 254
    vectors = encoder.encode([long, long + "zebra " * 300])
    assert float(vectors[0] @ vectors[1]) > 0.9999


def test_chunks_of_the_real_tokenizer_are_read_whole(encoder: SentenceEncoder) -> None:
    parsed = parse_text("Unaffordability of pseudo-antidisestablishmentarianism: 1,234.56 €/m²! " * 80)
    passages = Chunker(encoder, ChunkSettings()).cut("a", "hash", parsed)
    assert len(passages) > 5
    assert max(passage.tokens for passage in passages) <= ChunkSettings().tokens_max


@pytest.mark.filterwarnings("ignore")
def test_it_computes_what_sentence_transformers_computes() -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(FOLDER), device="cpu", local_files_only=True)
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert is_bert(FOLDER)
    network = Bert(FOLDER, "cpu", torch.float32)
    ids = reference.tokenizer(TEXTS, truncation=True, max_length=256)["input_ids"]
    np.testing.assert_allclose(network.encode(ids), expected, atol=1e-5)
    assert float((SentenceEncoder(FOLDER).encode(TEXTS) * expected).sum(axis=1).min()) > 0.999


def test_a_folder_that_is_no_encoder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sentence encoder"):
        SentenceEncoder(tmp_path)
