"""`Posterior.save` and `load`: everything comes back, and a file is only ever read."""

import json
import pickle
from dataclasses import dataclass

import arviz as az
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic_runs import QUICK, changed

import bayeshmm as bh
from training.store import RunWriter


@pytest.fixture(scope="module")
def saved(posterior, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "posterior.nc"
    posterior.rename({1: "plateau", 2: "grok"}).save(path)
    return path


@pytest.fixture(scope="module")
def loaded(saved):
    return bh.load(saved)


class TestRoundTrip:
    def test_description(self, posterior, loaded):
        assert loaded.state_names == ("phase 0", "plateau", "grok")
        assert loaded.hmm == posterior.hmm
        assert loaded.inference == posterior.inference
        assert repr(loaded.rename({1: "phase 1", 2: "phase 2"})) == repr(posterior)

    def test_tables(self, posterior, loaded, unseen):
        named = posterior.rename({1: "plateau", 2: "grok"})
        for runs in (None, unseen):
            for table in ("entry_times", "transition_times"):
                one, other = (getattr(p, table)(runs=runs) for p in (named, loaded))
                pd.testing.assert_frame_equal(one, other, check_exact=True)

    @pytest.mark.parametrize("kind", ["smooth", "filter"])
    def test_state_probabilities(self, posterior, loaded, unseen, kind):
        np.testing.assert_array_equal(getattr(loaded, kind)(), getattr(posterior, kind)())
        np.testing.assert_array_equal(
            getattr(loaded, kind)(unseen), getattr(posterior, kind)(unseen)
        )

    def test_densities(self, posterior, loaded, moving, unseen):
        for runs in (moving, unseen):
            xr.testing.assert_identical(loaded.log_density(runs), posterior.log_density(runs))

    def test_restarts_and_diagnostics(self, posterior, loaded):
        pd.testing.assert_frame_equal(loaded.restarts, posterior.restarts, check_exact=True)
        pd.testing.assert_series_equal(loaded.diagnostics, posterior.diagnostics, check_exact=True)

    def test_runs(self, posterior, loaded):
        pd.testing.assert_frame_equal(
            loaded.runs.to_dataframe(), posterior.runs.to_dataframe(), check_exact=True
        )
        assert loaded.runs.metrics == posterior.runs.metrics

    def test_inference_data(self, posterior, loaded):
        for name in posterior.idata.posterior.data_vars:
            np.testing.assert_array_equal(
                loaded.idata.posterior[name], posterior.idata.posterior[name]
            )

    def test_arviz_reads_the_draws_from_the_same_file(self, posterior, saved):
        idata = az.from_netcdf(saved)
        for group, name in (("posterior", "transition"), ("log_likelihood", "log_lik")):
            np.testing.assert_array_equal(idata[group][name], posterior.idata[group][name])
        assert idata.posterior["state"].to_numpy().tolist() == ["phase 0", "plateau", "grok"]

    def test_saved_again(self, loaded, saved, tmp_path):
        path = tmp_path / "again.nc"
        loaded.save(path)
        loaded.save(str(path))  # over itself
        assert bh.load(str(path)).state_names == loaded.state_names

    @pytest.mark.parametrize(
        ("emission", "settings"),
        [
            (bh.Autoregressive(lags=2, half_lives=(3, 10.5), covariance="diagonal"), {}),
            (bh.Gaussian(covariance="diagonal"), {"log": {"m0": 0.123456789012345}}),
            ("gaussian", {"transition": bh.Dirichlet(expected_dwell=1 / 3 + 100)}),
        ],
    )
    def test_models(self, short, tmp_path, emission, settings):
        posterior = bh.fit(short, 2, emission=emission, **QUICK, **settings)
        posterior.save(tmp_path / "model.nc")
        loaded = bh.load(tmp_path / "model.nc")
        assert loaded.hmm == posterior.hmm
        assert repr(loaded) == repr(posterior)
        xr.testing.assert_identical(loaded.log_density(short), posterior.log_density(short))
        assert np.isnan(loaded.diagnostics["r_hat"])  # draws of the mode make no chains

    def test_values_that_are_missing_or_for_display(self, short, tmp_path):
        runs = changed(
            short,
            m1=lambda rows: rows["m1"].mask(rows["step"] == 70),
            accuracy=lambda rows: rows["step"] / 400,
        ).select(["m0", "m1"])
        posterior = bh.fit(runs, 2, **QUICK)
        posterior.save(tmp_path / "model.nc")
        loaded = bh.load(tmp_path / "model.nc").runs
        assert loaded.metrics == ("m0", "m1")
        assert loaded.columns == ("m0", "m1", "accuracy")
        pd.testing.assert_frame_equal(loaded.to_dataframe(), runs.to_dataframe())

    def test_attributes(self, short, tmp_path):
        """Settings come back to the last digit, whatever they are."""
        settings = pd.DataFrame(
            {
                "seed": range(6),
                "lr": [1e-12, 1 / 3, 2.5e-5, 1e300, 0.1, 3.0],
                "decay": [0.1, np.nan, 0.2, 0.3, 1.0, 0.0],
                "optimizer": ["adam", "sgd", "2024-01-01", "a,b", "µ", "None"],
                "amp": [True, False, True, True, False, True],
            },
            index=pd.Index(short.names, name="run"),
        )
        frame = short.to_dataframe().join(settings, on="run")
        runs = bh.Runs.from_dataframe(frame, metrics=["m0", "m1"])
        assert set(settings) < set(runs.attributes)
        bh.fit(runs, 1, **QUICK).save(tmp_path / "model.nc")
        loaded = bh.load(tmp_path / "model.nc").runs.attributes
        pd.testing.assert_frame_equal(loaded, runs.attributes, check_exact=True)

    def test_attributes_of_a_run_store(self, tmp_path):
        for n, hidden in enumerate(([8, 8], [16])):
            config = {"lr": 0.1 * n, "hidden": hidden, "note": None if n else "first"}
            writer = RunWriter(tmp_path / f"runs/{n}", {"seed": n, "config": config})
            for step in range(12):
                writer.write({"step": step, "train/loss": np.exp(-step / 5) + 0.01 * np.sin(step)})
            writer.close()
        runs = bh.Runs.read(tmp_path / "runs")
        bh.fit(runs, 1, **QUICK).save(tmp_path / "model.nc")
        loaded = bh.load(tmp_path / "model.nc").runs.attributes
        pd.testing.assert_frame_equal(loaded, runs.attributes, check_exact=True)


@dataclass(frozen=True)
class OneLag(bh.Autoregressive):
    """A user's own family."""

    lags: int = 1


def test_a_family_of_the_user_must_be_given_again(short, tmp_path):
    posterior = bh.fit(short, 2, emission=OneLag(), **QUICK)
    path = tmp_path / "own.nc"
    posterior.save(path)
    with pytest.raises(ValueError, match=r"(?s)'OneLag'.*emission="):
        bh.load(path)
    loaded = bh.load(path, emission=OneLag())
    assert loaded.hmm == posterior.hmm
    xr.testing.assert_identical(loaded.log_density(short), posterior.log_density(short))


class TestSafety:
    def test_loading_unpickles_nothing(self, saved, posterior, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("unpickled")

        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, refuse)
        monkeypatch.setattr("torch.load", refuse)
        monkeypatch.setattr("joblib.load", refuse)
        with pytest.raises(AssertionError, match="unpickled"):
            pickle.loads(b"")
        loaded = bh.load(saved)
        pd.testing.assert_frame_equal(loaded.restarts, posterior.restarts)

    def test_no_array_in_the_file_holds_objects(self, saved):
        kinds = []
        with h5py.File(saved) as file:
            file.visititems(
                lambda name, item: (
                    kinds.append((name, item.dtype.kind))
                    if isinstance(item, h5py.Dataset)
                    and h5py.check_string_dtype(item.dtype) is None
                    else None
                )
            )
        assert len(kinds) > 20
        assert [name for name, kind in kinds if kind not in "fiub"] == []


def retitled(saved, path, change):
    """A copy of a saved file whose header is changed; None removes it."""
    path.write_bytes(saved.read_bytes())
    with h5py.File(path, "a") as file:
        attributes = file["bayeshmm"].attrs
        header = change(json.loads(attributes["header"]))
        del attributes["header"]
        if header is not None:
            attributes["header"] = header if isinstance(header, str) else json.dumps(header)
    return path


class TestBadFiles:
    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no file.*nowhere\.nc"):
            bh.load(tmp_path / "nowhere.nc")

    def test_a_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no file"):
            bh.load(tmp_path)

    def test_no_folder_to_write_to(self, posterior, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"folder.*absent.*make it first"):
            posterior.save(tmp_path / "absent" / "posterior.nc")

    def test_text(self, tmp_path):
        path = tmp_path / "notes.nc"
        path.write_text("step,loss\n0,1\n")
        with pytest.raises(ValueError, match=r"notes\.nc.*not a saved posterior"):
            bh.load(path)

    def test_draws_without_a_posterior(self, posterior, tmp_path):
        path = tmp_path / "draws.nc"
        posterior.idata.to_netcdf(str(path), engine="h5netcdf")
        with pytest.raises(ValueError, match="not a saved posterior"):
            bh.load(path)

    @pytest.mark.parametrize("header", [None, "{", "[]"])
    def test_header_that_says_nothing(self, saved, tmp_path, header):
        path = retitled(saved, tmp_path / "broken.nc", lambda _: header)
        with pytest.raises(ValueError, match=r"broken\.nc.*not a saved posterior"):
            bh.load(path)

    def test_later_schema(self, saved, tmp_path):
        path = retitled(saved, tmp_path / "later.nc", lambda header: header | {"schema": 99})
        with pytest.raises(ValueError, match=r"later\.nc.*schema 99.*install a later"):
            bh.load(path)
