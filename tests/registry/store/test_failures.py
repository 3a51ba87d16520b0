"""What MLflow can't do now is an error; only what it says is not there counts as absent."""

from types import SimpleNamespace

import pytest
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.registry.records import BASE_ID, BASE_ROW, Prediction
from adapt_lora.registry.store.client import ABSENT, Client, expecting
from tests.registry.conftest import cell

OUTAGE = MlflowException("the database does not answer", TEMPORARILY_UNAVAILABLE)


class Ailing:
    """MLflow's client, some of whose calls fail."""

    def __init__(self, client, error, *calls):
        self._client, self._error, self._calls = client, error, calls

    def __getattr__(self, name):
        return self._fail if name in self._calls else getattr(self._client, name)

    def _fail(self, *_, **__):
        raise self._error


@pytest.fixture
def break_off(registry):
    """Makes calls of the registry's MLflow client fail: break_off("delete_run", …)."""

    def ail(*calls, error=OUTAGE):
        registry._client.mlflow = Ailing(registry._client.mlflow, error, *calls)

    return ail


@pytest.fixture
def adapter(registry, adapter_folder, adapter_record):
    folder = adapter_folder()
    return registry.add_adapter(adapter_record(folder, "sst2"), folder)


def test_a_time_out_is_not_a_cell_without_predictions(registry, base, task, break_off):
    kept = (Prediction("d" * 64, True, "yes", (-0.25, -1.5), None, "yes"),)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)], kept)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5, protocol="p2")])
    assert registry.predictions(base, BASE_ROW, "trec", protocol="p1") == kept
    assert registry.predictions(base, BASE_ROW, "trec", protocol="p2") == ()
    break_off("get_run")
    with pytest.raises(RegistryError, match="the database does not answer"):
        registry.predictions(base, BASE_ROW, "trec", protocol="p1")


@pytest.mark.parametrize("error", [OUTAGE, MlflowException("500", INTERNAL_ERROR)])
@pytest.mark.parametrize("call", ["delete_model_version", "delete_logged_model", "delete_run"])
def test_a_failed_deletion_is_said(registry, adapter, break_off, call, error):
    break_off(call, error=error)
    with pytest.raises(RegistryError, match=str(error)):
        registry.remove(adapter)


def test_what_is_gone_already_hinders_no_removal(registry, adapter, base):
    registry._client.mlflow.delete_model_version(adapter.name, str(adapter.version))
    registry._client.mlflow.delete_registered_model(adapter.name)
    registry.remove(adapter)
    registry.remove(adapter)
    assert registry.adapters(base) == []


def test_an_outage_is_not_an_alias_that_is_missing(registry, adapter, break_off):
    with pytest.raises(NotFoundError, match="sst2 has no alias 'best'"):
        registry.adapter("sst2@best")
    with pytest.raises(NotFoundError, match="nothing has no alias 'best'"):
        registry.adapter("nothing@best")
    break_off("get_model_version_by_alias")
    with pytest.raises(RegistryError, match="does not answer") as raised:
        registry.adapter("sst2@champion")
    assert not isinstance(raised.value, NotFoundError)


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("models:/sst2@champion", "get_model_version_by_alias"),
        ("models:/sst2/1", "get_model_version"),
        (f"models:/m-{'0' * 32}", "get_logged_model"),
    ],
)
def test_an_outage_is_not_a_source_with_nothing_to_fetch(
    registry, adapter, tmp_path, break_off, source, call
):
    break_off(call)
    with pytest.raises(RegistryError, match="does not answer") as raised:
        registry.fetch(source, tmp_path / "fetched")
    assert not isinstance(raised.value, NotFoundError)


@pytest.mark.parametrize("call", ["create_registered_model", "create_experiment"])
def test_a_refusal_is_not_somebody_who_was_quicker(
    registry, adapter_folder, adapter_record, break_off, call
):
    break_off(call, error=MlflowException("you may only read", PERMISSION_DENIED))
    folder = adapter_folder()
    with pytest.raises(RegistryError, match="you may only read"):
        registry.add_adapter(adapter_record(folder, "sst2"), folder)


def test_an_experiment_that_another_process_made_first_is_taken(registry, base, monkeypatch):
    client = registry._client.mlflow
    create = client.create_experiment

    def create_twice(*given):
        create(*given)
        return create(*given)

    monkeypatch.setattr(client, "create_experiment", create_twice)
    assert registry.ensure_base(base) is None
    assert registry.bases() == [base]


# --- files that are on another machine


@pytest.fixture
def remote(monkeypatch):
    """A client whose runs' files can't be copied, as MLflow says it of every failure."""
    client = Client("http://127.0.0.1:1")
    listed = [FileInfo("predictions/trec/1.parquet", False, 7)]
    client.mlflow = SimpleNamespace(list_artifacts=lambda run_id, folder: listed)

    def download_artifacts(**_):
        raise MlflowException("please ensure that the path is correct", RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", download_artifacts)
    return client


RUN = SimpleNamespace(info=SimpleNamespace(run_id="a" * 32, artifact_uri="mlflow-artifacts:/1/a"))


def test_a_file_that_is_listed_and_does_not_come_is_an_error(remote):
    assert remote.read_artifact(RUN, "predictions/trec/2.parquet") is None
    with pytest.raises(RegistryError, match=r"1\.parquet is in .*, but can't be copied"):
        remote.read_artifact(RUN, "predictions/trec/1.parquet")


def test_a_server_that_dies_before_the_listing_is_an_error(remote):
    remote.mlflow = Ailing(remote.mlflow, OUTAGE, "list_artifacts")
    with pytest.raises(MlflowException, match="does not answer"):
        remote.read_artifact(RUN, "predictions/trec/2.parquet")


def test_the_code_of_a_server_s_answer_decides():
    gone, busy = (
        RestException({"error_code": code, "message": "sst2"})
        for code in (ABSENT, "TEMPORARILY_UNAVAILABLE")
    )
    with expecting(ABSENT):
        raise gone
    with pytest.raises(RestException), expecting(ABSENT):
        raise busy
    with (
        pytest.raises(NotFoundError, match="no sst2"),
        expecting(ABSENT, instead=NotFoundError("no sst2")),
    ):
        raise gone
