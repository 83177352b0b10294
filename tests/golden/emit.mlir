// before emit
#h0 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000001", "float32", [3]>
#h1 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000002", "int16", [3, 6, 1, 1]>
#h2 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000003", "float32", [3]>
#h3 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000004", "int32", [2, 4]>
#h4 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000005", "int32", [2, 4]>
#h5 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000006", "int16", [2, 4, 4]>
#h6 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000007", "uint8", [2, 4]>
#h7 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000008", "int32", [7]>
#h8 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000009", "int64", [7]>
#h9 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000010", "uint8", [7, 4, 1]>
#h10 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000011", "int16", [7, 4]>
#h11 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000012", "int32", [7]>
#h12 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000013", "int32", [7]>
#a0 = ["nn.partitioned", "nn.calibrated", "quant.float", "quant", "xbar.tiled", "xbar.squeezed", "xbar.compacted", "xbar.sliced", "xbar.grouped", "xbar.placed"]
#a1 = ["partition", "calibrate{method=min-max}", "quantize-activations", "quantize-nearest{bits=4}", "tile", "squeeze-out{depth=1}", "compact", "slice-bits", "group-rows", "assign-cores"]
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %x$$1 = "quant.quantize"(%x) : (tensor<1x6x1x2xf32>) -> tensor<1x6x1x2x!quant.u<8, 1.0, 0>> loc("<model>":0:0)
    %relu = "xbar.conv"(%x$$1) {name = "conv", tensor = "relu", bias = #h0, clamp_min = 0.0 : f64, clamp_max = 0x7FF0000000000000 : f64, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, groups = 1 : i64, weight = #h1, weight_scale = #h2, bits = 4 : i64, pattern = "uniform", sign = "differential", geometry = array<i64: 4, 4>, cell_bits = 1 : i64, rows = #h3, cols = #h4, codes = #h5, shifts = #h6, squeeze = 1 : i64, shift = "leading-one", squeeze_error = 0.005161290322580645 : f64, planes = 6 : i64, blocks_empty = 5 : i64, xbar_tile = #h7, xbar_weight = #h8, cells = #h9, row_group = #h10, xbar_core = #h11, xbar_slot = #h12, xbar_row0 = #h11, xbar_col0 = #h11} : (tensor<1x6x1x2x!quant.u<8, 1.0, 0>>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %y = "smec.host"(%relu) ({
    ^bb0(%relu$$1: tensor<1x3x1x2xf32>):
      %y$$1 = "nn.Softmax"(%relu$$1) {axis = 1 : i64, _tensor = "y"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
      "smec.return"(%y$$1) : (tensor<1x3x1x2xf32>) -> () loc("softmax"("<model>":0:0))
    }) {name = "host0", batchable = true} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>} : () -> () loc("<model>":0:0)
}) {levels = #a0, passes = #a1} : () -> () loc("<model>":0:0)
// 1: float32 [3] = 0 8 -8
// 2: int16 [3, 6, 1, 1] = 14 4 0 1 4 0 0 8 0 -1 14 0 -14 2 0 2 0 1
// 3: float32 [3] = 1 1 1
// 4: int32 [2, 4] = 3 0 1 4 5 -1 -1 -1
// 5: int32 [2, 4] = 0 1 2 -1 2 -1 -1 -1
// 6: int16 [2, 4, 4] = 1 -1 2 0 7 0 -7 0 2 4 1 0 2 7 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
// 7: uint8 [2, 4] = 0 1 1 1 0 0 0 0
// 8: int32 [7] = 0 0 0 0 0 0 1
// 9: int64 [7] = 1 -1 2 -2 4 -4 1
// 10: uint8 [7, 4, 1] = 1 1 4 2 2 4 0 0 4 1 1 3 0 4 0 0 0 1 2 2 0 4 0 0 1 0 0 0
// 11: int16 [7, 4] = 0 0 0 0 0 0 -1 -1 0 0 0 0 -1 0 -1 -1 -1 0 0 0 -1 0 -1 -1 0 -1 -1 -1
// 12: int32 [7] = 0 0 0 0 0 0 0
// 13: int32 [7] = 0 1 2 3 4 5 6
// -----
// after emit
#h0 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000001", "float32", [3]>
#h1 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000002", "int16", [3, 6, 1, 1]>
#h2 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000003", "float32", [3]>
#h3 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000004", "int32", [2, 4]>
#h4 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000005", "int32", [2, 4]>
#h5 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000006", "int16", [2, 4, 4]>
#h6 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000007", "uint8", [2, 4]>
#h7 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000008", "int32", [7]>
#h8 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000009", "int64", [7]>
#h9 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000010", "uint8", [7, 4, 1]>
#h10 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000011", "int16", [7, 4]>
#h11 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000012", "int32", [7]>
#h12 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000013", "int32", [7]>
#a0 = ["buffers", "agus", "pool_f32", "pool_i64", "pool_u16", "tile_rows", "tile_cols", "tile_shift", "tile_offset", "tile_sign", "sign_blocks", "tile_xbars", "xbar_place", "xbar_phys", "xbar_weight", "xbar_group", "cells", "host.0"]
#a1 = [#smec.handle<"0000000000000000000000000000000000000000000000000000000000000014", "int64", [5, 5]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000015", "int64", [9, 14]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000016", "float32", [9]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000017", "int64", [5]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000018", "uint16", [0]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000004", "int32", [2, 4]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000005", "int32", [2, 4]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000007", "uint8", [2, 4]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000019", "int64", [2]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000020", "int64", [2, 2]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000021", "uint8", [0, 1]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000022", "int64", [2, 2]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000023", "int32", [7, 4]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000013", "int32", [7]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000009", "int64", [7]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000011", "int16", [7, 4]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000010", "uint8", [7, 4, 1]>, #smec.handle<"0000000000000000000000000000000000000000000000000000000000000024", "uint8", [161]>]
#a2 = ["nn.partitioned", "nn.calibrated", "quant.float", "quant", "xbar.tiled", "xbar.squeezed", "xbar.compacted", "xbar.sliced", "xbar.grouped", "xbar.placed", "isa"]
#a3 = ["partition", "calibrate{method=min-max}", "quantize-activations", "quantize-nearest{bits=4}", "tile", "squeeze-out{depth=1}", "compact", "slice-bits", "group-rows", "assign-cores", "emit"]
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %x$$1 = "quant.quantize"(%x) : (tensor<1x6x1x2xf32>) -> tensor<1x6x1x2x!quant.u<8, 1.0, 0>> loc("<model>":0:0)
    %relu = "xbar.conv"(%x$$1) {name = "conv", tensor = "relu", bias = #h0, clamp_min = 0.0 : f64, clamp_max = 0x7FF0000000000000 : f64, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, groups = 1 : i64, weight = #h1, weight_scale = #h2, bits = 4 : i64, pattern = "uniform", sign = "differential", geometry = array<i64: 4, 4>, cell_bits = 1 : i64, rows = #h3, cols = #h4, codes = #h5, shifts = #h6, squeeze = 1 : i64, shift = "leading-one", squeeze_error = 0.005161290322580645 : f64, planes = 6 : i64, blocks_empty = 5 : i64, xbar_tile = #h7, xbar_weight = #h8, cells = #h9, row_group = #h10, xbar_core = #h11, xbar_slot = #h12, xbar_row0 = #h11, xbar_col0 = #h11} : (tensor<1x6x1x2x!quant.u<8, 1.0, 0>>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %y = "smec.host"(%relu) ({
    ^bb0(%relu$$1: tensor<1x3x1x2xf32>):
      %y$$1 = "nn.Softmax"(%relu$$1) {axis = 1 : i64, _tensor = "y"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
      "smec.return"(%y$$1) : (tensor<1x3x1x2xf32>) -> () loc("softmax"("<model>":0:0))
    }) {name = "host0", batchable = true} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>} : () -> () loc("<model>":0:0)
  "isa.program"() ({
    "isa.core"() ({
      "isa.quantize"() {dst = 1 : i64, src = 2 : i64, params = 0 : i64, zero_point = 0 : i64, hi = 255 : i64} : () -> () loc("instruction 0"("<model>":0:0))
      "isa.init"() {dst = 3 : i64, table = 0 : i64, length = 3 : i64} : () -> () loc("instruction 1"("<model>":0:0))
      "isa.mvm"() {dst = 4 : i64, src = 5 : i64, tile = 0 : i64} : () -> () loc("instruction 2"("<model>":0:0))
      "isa.mvm"() {dst = 4 : i64, src = 5 : i64, tile = 1 : i64} : () -> () loc("instruction 3"("<model>":0:0))
      "isa.dequant"() {dst = 6 : i64, src = 3 : i64, mult = 1 : i64, bias = 4 : i64, length = 3 : i64, clamp = 7 : i64, layer = 0 : i64} : () -> () loc("instruction 4"("<model>":0:0))
      "isa.host"() {region = 0 : i64, first_in = 3 : i64, n_in = 1 : i64, first_out = 4 : i64, n_out = 1 : i64} : () -> () loc("instruction 5"("<model>":0:0))
      "isa.halt"() : () -> () loc("instruction 6"("<model>":0:0))
    }) : () -> () loc("core 0"("<model>":0:0))
  }) {section_names = #a0, section_data = #a1, metadata = "..."} : () -> () loc("<model>":0:0)
}) {levels = #a2, passes = #a3} : () -> () loc("<model>":0:0)
// 14: int64 [5, 5] = 0 2 0 12 4 0 0 0 12 0 0 1 0 6 2 0 2 12 6 4 0 2 18 6 4
// 15: int64 [9, 14] = 0 0 1 0 1 0 1 0 6 2 1 0 2 1 1 0 1 0 1 0 1 0 1 0 2 6 6 1 0 0 1 0 1 0 1 0 1 0 2 1 6 2 2 0 1 0 1 0 1 0 1 0 2 3 3 1 2 0 1 0 1 0 1 0 1 0 1 0 2 3 1 0 1 0 1 0 1 0 1 0 1 0 2 6 3 0 1 0 1 0 1 0 1 0 2 1 3 2 3 0 1 0 1 0 1 0 3 2 1 0 2 1 4 0 1 0 1 0 1 0 3 2 1 0 2 1
// 16: float32 [9] = 1 1 1 1 0 8 -8 0 inf
// 17: int64 [5] = 0 0 0 7 8
// 18: uint16 [0] = 
// 19: int64 [2] = 0 0
// 20: int64 [2, 2] = 0 0 0 0
// 21: uint8 [0, 1] = 
// 22: int64 [2, 2] = 0 6 6 1
// 23: int32 [7, 4] = 0 0 0 0 0 1 0 0 0 2 0 0 0 3 0 0 0 4 0 0 0 5 0 0 0 6 0 0
