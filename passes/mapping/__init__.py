"""The array functions behind the mapping passes: arrays in, arrays out, no IR.

| module | pass |
| --- | --- |
| `tiling` | `tile` |
| `squeezing` | `squeeze-out` |
| `compaction` | `compact` |
| `slicing` | `slice-bits` |
| `grouping` | `group-rows` |
| `replication` | `replicate` |
| `placement` | `assign-cores` |

`coding` holds what they share: ranges of stored integers and the planes of a sign scheme.
"""
