"""Adapters from and to the Hugging Face Hub; only the allowed files travel, rows of data never."""

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.errors import AdapterError, NotFoundError, RegistryError, reason_of
from adapt_lora.registry.adapter import (
    ALLOWED_FILES,
    FINGERPRINT_FILE,
    copy_adapter,
    copy_allowed,
    read_adapter,
)
from adapt_lora.registry.adapter_files import WEIGHTS_FILE
from adapt_lora.registry.layout import card_markdown
from adapt_lora.registry.records import BASE_ROW, AdapterRecord, Cell
from adapt_lora.registry.stored import to_plain

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


_OURS = "<!-- What follows was written by Adapt. -->"
"""Stands above our part of a README, so that it can be renewed."""

_FORM, _BLANKS = "[More Information Needed]", 20
"""PEFT's form for a card, and how many gaps it has where hardly anybody filled it in."""


def fetch_adapter(
    source: str, dest_dir: Path, *, revision: str | None = None, endpoint: str | None = None
) -> Path:
    """Download an adapter's allowed files from the Hub.

    Args:
        source: Hub id, e.g. "org/name".
        dest_dir: Gets a folder org--name/<commit sha>.
        revision: Branch, tag or commit; None for the main branch.
        endpoint: Another Hub; None takes HF_ENDPOINT or huggingface.co.

    Returns:
        The folder; its name is the commit sha, so that a record can pin it.

    Raises:
        NotFoundError: No such repository or revision, or no access to it.
        AdapterError: The repository holds no safetensors adapter.
        RegistryError: The Hub can't be reached.
    """
    with _in_words(source):
        from huggingface_hub import snapshot_download

        snapshot = Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=list(ALLOWED_FILES),
                endpoint=endpoint,
            )
        )
    if not (snapshot / WEIGHTS_FILE).is_file():
        raise AdapterError(
            f"{source}: no {WEIGHTS_FILE} in this repository; it is not a PEFT adapter, or its "
            f"weights "
            "are a pickle (adapter_model.bin), which is never loaded."
        )
    folder = Path(dest_dir) / source.replace("/", "--") / snapshot.name
    copy_allowed(snapshot, folder)
    return folder


def push_adapter(
    record: AdapterRecord,
    folder: Path,
    repo_id: str,
    *,
    cells: Sequence[Cell] = (),
    body: str | None = None,
    private: bool = True,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload an adapter with a model card and its fingerprint (aggregates only).

    Args:
        record: The adapter as registered.
        folder: Its PEFT files.
        repo_id: Hub id to write to; made when it does not exist.
        cells: Measured cells of this adapter and of the base, for the card's table.
        body: Text of the card; None for a short one of record and cells.
        private: Whether a new repository is private.
        endpoint: Another Hub; None takes HF_ENDPOINT or huggingface.co.
        token: None takes the one that `hf auth login` or HF_TOKEN gives.

    Returns:
        Address of the commit.
    """
    adapter = read_adapter(folder, base_model=record.base.name)
    if adapter.adapter_id != record.adapter_id:
        raise AdapterError(f"{folder}: these are not the files of {record.name}.")
    with tempfile.TemporaryDirectory(prefix="adapt-push-") as scratch, _in_words(repo_id):
        from huggingface_hub import HfApi

        staged = copy_adapter(adapter, Path(scratch))
        (staged / FINGERPRINT_FILE).write_text(fingerprint_json(record), encoding="utf-8")
        model_card(record, cells, body=body).save(staged / "README.md")
        api = HfApi(endpoint=endpoint, token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=staged,
            allow_patterns=list(ALLOWED_FILES),
            commit_message=f"Add {record.name}",
        )
    return str(commit.commit_url)


def fingerprint_json(record: AdapterRecord) -> str:
    """What a pushed adapter says about its data: statistics, no row and no hash of a row."""
    plain = to_plain(record)
    for private in ("run_id", "model_id", "version", "created_ms", "has_weights"):
        del plain[private]
    if plain["dataset"]:  # why a row was skipped may quote it
        plain["dataset"].pop("read", None)
    # A hash of a short prompt can be guessed back.
    del plain["fingerprint"]["row_sketches"]
    return json.dumps({"schema_version": 1, **plain}, indent=1, sort_keys=True) + "\n"


def model_card(
    record: AdapterRecord, cells: Sequence[Cell] = (), *, body: str | None = None
) -> "ModelCard":
    """A folder's README: what the adapter sits on, what it was trained on, what it scored.

    Args:
        record: The adapter.
        cells: Its measured cells and the base's; they stand in the short text alone.
        body: Text below the facts that the Hub reads; None for a short one.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        base_model=record.base.name,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", f"base_model:adapter:{record.base.name}", "adapt"],
    )
    if body is None:
        lines = [f"# {record.name}", "", card_markdown(record)]
        table = _score_table(record, cells)
        if table:
            lines += ["", "## Scores", "", *table]
        body = "\n".join([*lines, ""])
    return ModelCard("\n".join(["---", data.to_yaml(), "---", "", body]))


def write_readme(folder: Path, record: AdapterRecord, body: str) -> None:
    """Put a card beside an adapter's files; what an author wrote there stays, above it.

    Args:
        folder: The files.
        record: Whose they are.
        body: Markdown.
    """
    place = folder / "README.md"
    text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    written = text.partition(_OURS)[0].rstrip()
    said = re.sub(r"\A---\n.*?\n---", "", written, flags=re.DOTALL).strip()
    is_form = said.count(_FORM) >= _BLANKS or "trained with Adapt." in said
    if said and not is_form:
        place.write_text(f"{written}\n\n{_OURS}\n{body}", encoding="utf-8")
    else:
        model_card(record, body=f"{_OURS}\n{body}").save(place)


def _score_table(record: AdapterRecord, cells: Sequence[Cell]) -> list[str]:
    of_base = {cell.task: cell for cell in cells if cell.row == BASE_ROW}
    own = [cell for cell in cells if cell.row == record.row]
    if not own:
        return []
    lines = ["| task | metric | rows | base | adapter | ± se |", "|---|---|---|---|---|---|"]
    for cell in own:
        base = f"{of_base[cell.task].score:.3f}" if cell.task in of_base else ""
        lines.append(
            f"| {cell.task} | {cell.metric} | {cell.n or ''} | {base} | {cell.score:.3f} | "
            f"{'' if cell.se is None else f'{cell.se:.3f}'} |"
        )
    return lines


@contextmanager
def _in_words(repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise NotFoundError(f"{repo_id!r} is not a Hub id such as org/name.") from error
    except GatedRepoError as error:
        raise NotFoundError(
            f"{repo_id} is gated: ask for access on its page, then log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise NotFoundError(f"{repo_id} has no such revision.") from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{repo_id} is not on the Hub, or is private: log in with `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise RegistryError(
            f"{repo_id}: the Hub can't be reached and there is no copy on this disk. Check the "
            f"network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE."
        ) from error
    except HfHubHTTPError as error:
        raise _refused(repo_id, error) from error
    except Exception as error:
        # The Hub's client lets through what its HTTP library raises, and that library changes.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise _refused(repo_id, error) from error


def _refused(repo_id: str, error: Exception) -> RegistryError:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    reason = reason_of(error)
    if status == 401:
        what = "the Hub refuses the token (401). Log in with `hf auth login`, or set HF_TOKEN anew."
    elif status == 403:
        what = f"the Hub does not allow it (403: {reason}). Use a token that may write there."
    elif status == 429:
        what = "the Hub gets too many requests (429). Wait, or log in, which allows more."
    elif status >= 500:
        what = f"the Hub can't do it now ({status}). Try again later."
    elif "certificate" in reason.lower():
        what = f"the Hub's certificate is not trusted ({reason}). Set SSL_CERT_FILE."
    elif status:
        what = f"the Hub did not do what was asked ({reason})."
    else:
        what = f"the Hub can't be reached ({reason}). Check the network and HF_ENDPOINT."
    return RegistryError(f"{repo_id}: {what}")
