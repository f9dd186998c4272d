import time, json


def test_x(forked, tiny, tmp_path, command):
    p = tmp_path / "p.json"
    p.write_text(json.dumps(tiny()))
    t = time.time()
    r = forked("train", p, "--out", tmp_path / "r", count=str(tmp_path / "count"))
    print(r, time.time() - t)
    t = time.time()
    r = forked("train", p, "--out", tmp_path / "r2", count=str(tmp_path / "count"))
    print(r.code, time.time() - t)
    print(len((tmp_path / "count").read_text().split("\n")))
    print((tmp_path / "count").read_text()[:6000])
    print(command("train", "nosuch"))
    assert 0
