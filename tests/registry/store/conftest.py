import pytest


@pytest.fixture
def register(registry, adapter_folder, adapter_record):
    """Registers a new little adapter: register("sst2")."""
    seeds = iter(range(100))

    def add(name="sst2", **more):
        seed = next(seeds)
        folder = adapter_folder(f"{name.replace('/', '-')}-{seed}", seed=seed)
        return registry.add_adapter(adapter_record(folder, name, **more), folder)

    return add


def mlflow_client(registry):
    """A client of MLflow's own, to look at what the registry wrote."""
    from mlflow import MlflowClient

    return MlflowClient(registry.tracking_uri, registry_uri=registry.tracking_uri)


def runs(registry, kind, experiment="adapters/org/tiny-llama"):
    client = mlflow_client(registry)
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], f"tags.`adapt.kind` = '{kind}'")
