"""TFLite's file format: names by number, and the fields of its tables in the order of their slots (schema version 3).

A field is ``name:type=default``; ``_`` is a slot that is not read. ``[type]`` is a vector. Other types than numbers, ``string``
and ``table`` (whose kind the field before it says) name a table of this file.
"""

from __future__ import annotations

_OPERATORS = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM
MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND
TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT
LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL
LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW
ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS
SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG
ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE
HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE
BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1
UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE
STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR
STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
"""
#: Operators by number.
OPERATORS = tuple(_OPERATORS.split())

_OPTIONS = """
NONE Conv2D DepthwiseConv2D ConcatEmbeddings LSHProjection Pool2D SVDF RNN FullyConnected Softmax Concatenation Add L2Norm
LocalResponseNormalization LSTM ResizeBilinear Call Reshape SkipGram SpaceToDepth EmbeddingLookupSparse Mul Pad Gather
BatchToSpaceND SpaceToBatchND Transpose Reducer Sub Div Squeeze SequenceRNN StridedSlice Exp TopKV2 Split LogSoftmax Cast
Dequantize MaximumMinimum ArgMax Less Neg PadV2 Greater GreaterEqual LessEqual Select Slice TransposeConv SparseToDense
Tile ExpandDims Equal NotEqual Shape Pow ArgMin FakeQuant Pack LogicalOr OneHot LogicalAnd LogicalNot Unpack FloorDiv
Square ZerosLike Fill BidirectionalSequenceLSTM BidirectionalSequenceRNN UnidirectionalSequenceLSTM FloorMod Range
ResizeNearestNeighbor LeakyRelu SquaredDifference MirrorPad Abs SplitV Unique ReverseV2 AddN GatherNd Cos Where Rank
ReverseSequence MatrixDiag Quantize MatrixSetDiag HardSwish If While DepthToSpace NonMaxSuppressionV4 NonMaxSuppressionV5
ScatterNd SelectV2 Densify SegmentSum BatchMatMul Cumsum CallOnce BroadcastTo Rfft2d Conv3D Hashtable HashtableFind
HashtableImport HashtableSize VarHandle ReadVariable AssignVariable Random Bucketize Gelu DynamicUpdateSlice
UnsortedSegmentProd UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentSum ATan2 Sign Bitcast BitwiseXor RightShift
"""
#: Kinds of an operator's options by number, without ``Options`` at their ends.
OPTIONS = tuple(_OPTIONS.split())

_TYPES = """
float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 uint64 resource variant uint32
uint16 int4 bfloat16 int2 uint4
"""
#: Dtypes by number.
TYPES = tuple(_TYPES.split())

#: Activations that are part of other operators, by number.
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
PADDINGS = ("SAME", "VALID")
MIRRORS = ("REFLECT", "SYMMETRIC")

TABLES: dict[str, str] = {
    "Model": "version:uint operator_codes:[OperatorCode] subgraphs:[SubGraph] description:string buffers:[Buffer] _ _ "
    "signature_defs:[SignatureDef]",
    "OperatorCode": "deprecated_builtin_code:byte custom_code:string version:int=1 builtin_code:int",
    "SubGraph": "tensors:[Tensor] inputs:[int] outputs:[int] operators:[Operator] name:string",
    "Tensor": "shape:[int] type:byte buffer:uint name:string quantization:QuantizationParameters is_variable:bool "
    "sparsity:table shape_signature:[int] has_rank:bool variant_tensors:[table] external_buffer:uint",
    "QuantizationParameters": "_ _ scale:[float] zero_point:[long] details_type:ubyte details:table quantized_dimension:int",
    "Operator": "opcode_index:uint inputs:[int] outputs:[int] builtin_options_type:ubyte builtin_options:table _ _ _ _ _ _ "
    "builtin_options_2_type:ubyte",
    "Buffer": "data:[ubyte] offset:ulong size:ulong",
    "SignatureDef": "inputs:[TensorMap] outputs:[TensorMap] signature_key:string _ subgraph_index:uint",
    "TensorMap": "name:string tensor_index:uint",
    # options of operators
    "Conv2D": "padding:byte stride_w:int stride_h:int activation:byte dilation_w:int=1 dilation_h:int=1 bias_type:byte",
    "DepthwiseConv2D": "padding:byte stride_w:int stride_h:int depth_multiplier:int activation:byte dilation_w:int=1 "
    "dilation_h:int=1",
    "Conv3D": "padding:byte stride_d:int stride_w:int stride_h:int activation:byte dilation_d:int=1 dilation_w:int=1 "
    "dilation_h:int=1",
    "TransposeConv": "padding:byte stride_w:int stride_h:int activation:byte bias_type:byte",
    "Pool2D": "padding:byte stride_w:int stride_h:int filter_w:int filter_h:int activation:byte",
    "FullyConnected": "activation:byte weights_format:byte keep_num_dims:bool asymmetric_inputs:bool bias_type:byte",
    "BatchMatMul": "adj_x:bool adj_y:bool asymmetric_inputs:bool",
    "Add": "activation:byte",
    "Sub": "activation:byte",
    "Mul": "activation:byte",
    "Div": "activation:byte",
    "L2Norm": "activation:byte",
    "Concatenation": "axis:int activation:byte",
    "Softmax": "beta:float",
    "LeakyRelu": "alpha:float",
    "Gelu": "approximate:bool",
    "Reducer": "keep_dims:bool",
    "Cumsum": "exclusive:bool reverse:bool",
    "ArgMax": "output_type:byte",
    "ArgMin": "output_type:byte",
    "Reshape": "new_shape:[int]",
    "Squeeze": "squeeze_dims:[int]",
    "StridedSlice": "begin_mask:int end_mask:int ellipsis_mask:int new_axis_mask:int shrink_axis_mask:int offset:bool",
    "Pack": "values_count:int axis:int",
    "Unpack": "num:int axis:int",
    "Split": "num_split:int",
    "SplitV": "num_split:int",
    "Gather": "axis:int batch_dims:int",
    "OneHot": "axis:int",
    "MirrorPad": "mode:byte",
    "SpaceToDepth": "block_size:int",
    "DepthToSpace": "block_size:int",
    "ResizeBilinear": "_ _ align_corners:bool half_pixel_centers:bool",
    "ResizeNearestNeighbor": "align_corners:bool half_pixel_centers:bool",
}
