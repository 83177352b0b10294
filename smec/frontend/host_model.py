"""Host regions as ONNX models: the front end's names for what lives with the IR, because the passes need it as well."""

from __future__ import annotations

from smec.ir.onnx_model import probe_batchable, region_interface, region_to_model, serialize

__all__ = ["probe_batchable", "region_interface", "region_to_model", "serialize"]
