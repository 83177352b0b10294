"""The array functions behind the mapping passes: arrays in, arrays out, no IR.

| module | pass |
| --- | --- |
| `tiling` | `tile` |
| `squeezing` | `squeeze-out` |
| `compaction` | `compact` |
| `slicing` | `slice-bits` |
| `joint`, `grouping`, `row_packing`, `row_improve`, `row_search`, `row_exact` | `group-rows` |
| `replication` | `replicate` |
| `placement`, `workload`, `traffic`, `routing`, `exchange` | `assign-cores` |

`coding` and `solver` hold what they share: ranges of stored integers and planes of a sign scheme; settings of CP-SAT.
"""
