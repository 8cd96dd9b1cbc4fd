import pytest

from pretrain import profiles


def test_the_environment_decides(monkeypatch, capsys):
    monkeypatch.setenv("PROFILE", "full")
    profile = profiles.active()
    assert profile.name == "full"
    assert profile.pick(1, 2) == 2
    assert "full" in capsys.readouterr().out


def test_without_a_gpu_the_default_is_quick(monkeypatch, capsys):
    monkeypatch.delenv("PROFILE", raising=False)
    monkeypatch.setattr(profiles, "has_gpu", lambda: False)
    assert profiles.active().name == "quick"
    monkeypatch.setattr(profiles, "has_gpu", lambda: True)
    assert profiles.active().name == "full"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "GPU" in lines[0]


def test_an_unknown_profile_is_named(monkeypatch):
    monkeypatch.setenv("PROFILE", "fast")
    with pytest.raises(ValueError, match=r"'fast'.*quick, full"):
        profiles.active()
