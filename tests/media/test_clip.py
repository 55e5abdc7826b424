"""Serialisation of decoded clips."""

import numpy as np
import pyarrow as pa

from emi_ray.media.clip import DecodedClip, Faces, Waveform, pack_clip, rows_of, table_of, unpack_clip


def clip(name, faces=True, sound=True):
    generator = np.random.default_rng(len(name))
    crops = generator.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    times, boxes, starts = np.arange(5, dtype=np.float32), np.zeros((5, 4), np.float32), np.arange(5) % 3 == 0
    return DecodedClip(
        name,
        faces=Faces(crops, boxes, times, np.ones(5, bool), starts) if faces else None,
        waveform=Waveform(generator.normal(size=64).astype(np.float32), 16_000) if sound else None,
    )


def travelled(clips):
    """One record batch, as a block is when it was read and cut by Ray."""
    table = table_of([pack_clip(one) for one in clips]).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def test_rows_hold_the_tables_own_memory():
    table = travelled([clip("a"), clip("bb"), clip("ccc", faces=False)])
    whole = table["faces"].chunk(0).buffers()[2]
    for row in rows_of(table)[:2]:
        assert whole.address <= row["faces"].address < whole.address + whole.size
        crops = unpack_clip(row).faces.crops
        assert whole.address <= crops.__array_interface__["data"][0] < whole.address + whole.size


def test_every_row_gets_its_own_values_whatever_the_chunks():
    clips = [clip("a"), clip("bb", faces=False), clip("ccc", sound=False), clip("dddd")]
    whole = travelled(clips)
    tables = [
        whole,
        whole.slice(1, 3),
        whole.slice(3),
        whole.slice(1, 1),
        pa.concat_tables([whole, whole.slice(2)]),
    ]
    expected = [clips, clips[1:], clips[3:], clips[1:2], [*clips, *clips[2:]]]
    for table, originals in zip(tables, expected, strict=True):
        for row, original in zip(rows_of(table), originals, strict=True):
            found = unpack_clip(row)
            assert found.clip_id == original.clip_id
            assert (found.faces is None, found.waveform is None) == (
                original.faces is None,
                original.waveform is None,
            )
            if original.faces:
                np.testing.assert_equal(vars(found.faces), vars(original.faces))
            if original.waveform:
                np.testing.assert_array_equal(found.waveform.samples, original.waveform.samples)


def test_runs_begin_at_their_starts_and_share_the_memory():
    faces = clip("a").faces
    runs = faces.runs()
    assert [run.timestamps_s.tolist() for run in runs] == [[0, 1, 2], [3, 4]]
    np.testing.assert_array_equal(np.concatenate([run.crops for run in runs]), faces.crops)
    assert all(np.shares_memory(run.crops, faces.crops) for run in runs)
