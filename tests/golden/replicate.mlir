// before replicate{crossbars=24}
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
#a0 = ["nn.partitioned", "nn.calibrated", "quant.float", "quant", "xbar.tiled", "xbar.squeezed", "xbar.compacted", "xbar.sliced", "xbar.grouped"]
#a1 = ["partition", "calibrate{method=min-max}", "quantize-activations", "quantize-nearest{bits=4}", "tile", "squeeze-out{depth=1}", "compact", "slice-bits", "group-rows"]
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %x$$1 = "quant.quantize"(%x) : (tensor<1x6x1x2xf32>) -> tensor<1x6x1x2x!quant.u<8, 1.0, 0>> loc("<model>":0:0)
    %relu = "xbar.conv"(%x$$1) {name = "conv", tensor = "relu", bias = #h0, clamp_min = 0.0 : f64, clamp_max = 0x7FF0000000000000 : f64, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, groups = 1 : i64, weight = #h1, weight_scale = #h2, bits = 4 : i64, pattern = "uniform", sign = "differential", geometry = array<i64: 4, 4>, cell_bits = 1 : i64, rows = #h3, cols = #h4, codes = #h5, shifts = #h6, squeeze = 1 : i64, shift = "leading-one", squeeze_error = 0.005161290322580645 : f64, planes = 6 : i64, blocks_empty = 5 : i64, xbar_tile = #h7, xbar_weight = #h8, cells = #h9, row_group = #h10} : (tensor<1x6x1x2x!quant.u<8, 1.0, 0>>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
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
// -----
// after replicate{crossbars=24}
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
#a0 = ["nn.partitioned", "nn.calibrated", "quant.float", "quant", "xbar.tiled", "xbar.squeezed", "xbar.compacted", "xbar.sliced", "xbar.grouped"]
#a1 = ["partition", "calibrate{method=min-max}", "quantize-activations", "quantize-nearest{bits=4}", "tile", "squeeze-out{depth=1}", "compact", "slice-bits", "group-rows", "replicate{crossbars=24}"]
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %x$$1 = "quant.quantize"(%x) : (tensor<1x6x1x2xf32>) -> tensor<1x6x1x2x!quant.u<8, 1.0, 0>> loc("<model>":0:0)
    %relu = "xbar.conv"(%x$$1) {name = "conv", tensor = "relu", bias = #h0, clamp_min = 0.0 : f64, clamp_max = 0x7FF0000000000000 : f64, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, groups = 1 : i64, weight = #h1, weight_scale = #h2, bits = 4 : i64, pattern = "uniform", sign = "differential", geometry = array<i64: 4, 4>, cell_bits = 1 : i64, rows = #h3, cols = #h4, codes = #h5, shifts = #h6, squeeze = 1 : i64, shift = "leading-one", squeeze_error = 0.005161290322580645 : f64, planes = 6 : i64, blocks_empty = 5 : i64, xbar_tile = #h7, xbar_weight = #h8, cells = #h9, row_group = #h10, copies = 3 : i64, cuts = array<i64: 6, 12>, pixel_digits = 9 : i64} : (tensor<1x6x1x2x!quant.u<8, 1.0, 0>>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %y = "smec.host"(%relu) ({
    ^bb0(%relu$$1: tensor<1x3x1x2xf32>):
      %y$$1 = "nn.Softmax"(%relu$$1) {axis = 1 : i64, _tensor = "y"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
      "smec.return"(%y$$1) : (tensor<1x3x1x2xf32>) -> () loc("softmax"("<model>":0:0))
    }) {name = "host0", batchable = true} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>} : () -> () loc("<model>":0:0)
}) {levels = #a0, passes = #a1} : () -> () loc("<model>":0:0)
