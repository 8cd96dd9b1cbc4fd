"""The arithmetic that is counted is the arithmetic that is done."""

import keras
import numpy as np
import pytest
from keras import layers

from pretrain import flops, models


def model(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("network", "products"),
    [
        # 10 outputs, each a sum of 7 products
        (model((7,), layers.Dense(10)), 7 * 10),
        # the same for each of 5 tokens
        (model((5, 7), layers.Dense(10)), 5 * 7 * 10),
        # 4 by 4 places, 6 filters, windows of 3 by 3 by 2
        (model((8, 8, 2), layers.Conv2D(6, 3, 2, "same")), 16 * 6 * 9 * 2),
        # without padding the kernel fits at 6 by 6 places
        (model((8, 8, 2), layers.Conv2D(6, 3)), 36 * 6 * 9 * 2),
        # two groups: each filter sees half of the 4 channels
        (model((8, 8, 4), layers.Conv2D(6, 3, groups=2)), 36 * 6 * 9 * 2),
        # each filter sees one channel of 4
        (model((8, 8, 4), layers.DepthwiseConv2D(3)), 36 * 4 * 9),
        # each of 4 by 4 inputs spreads 2 channels over 3 by 3 by 6
        (
            model((4, 4, 2), layers.Conv2DTranspose(6, 3, strides=2, padding="same")),
            16 * 2 * 9 * 6,
        ),
        (model((8, 8, 2), layers.BatchNormalization(), layers.ReLU()), 0),
    ],
)
def test_products_of_a_layer_are_those_worked_out_by_hand(network, products):
    assert flops.forward(network) == 2 * products


def test_attention_is_four_projections_scores_and_sums():
    tokens = keras.Input((5, 12))
    attended = layers.MultiHeadAttention(num_heads=3, key_dim=4)(tokens, tokens)
    projections = 4 * 5 * 12 * 12
    scores, sums = 3 * 5 * 5 * 4, 3 * 5 * 5 * 4
    expected = 2 * (projections + scores + sums)
    assert flops.forward(keras.Model(tokens, attended)) == expected


def test_models_inside_a_model_are_counted():
    encoder = models.conv_encoder((32, 32, 3))
    head = models.pooled_head((4, 4, 128), 10)
    by_hand = 2 * (16**2 * 27 * 32 + 8**2 * 288 * 64 + 4**2 * 576 * 128 + 128 * 10)
    assert flops.forward(models.classifier(encoder, head)) == by_hand
    assert flops.training(models.classifier(encoder, head), 5) == 15 * by_hand


@pytest.mark.parametrize(
    ("network", "numbers"),
    [
        # 3 images: 7 numbers in, 10 out, and 7 · 10 weights with 10 biases, once
        (model((7,), layers.Dense(10)), 3 * (7 + 10) + 80),
        (
            model((8, 8, 2), layers.Conv2D(6, 3, 2, "same")),
            3 * (8 * 8 * 2 + 4 * 4 * 6) + 9 * 2 * 6 + 6,
        ),
        (model((8, 8, 2), layers.ReLU()), 3 * 2 * 128),
        # scale, shift and two running averages of each of 2 channels
        (model((8, 8, 2), layers.BatchNormalization()), 3 * 2 * 128 + 4 * 2),
        (model((8, 8, 2), layers.Flatten()), 0),
    ],
)
def test_bytes_of_a_layer_are_those_worked_out_by_hand(network, numbers):
    (layer,) = network.layers
    assert flops.bytes_of_layer(layer, images=3) == 4 * numbers
    assert flops.bytes_of_layer(layer, images=3, width=2) == 2 * numbers


def test_a_sum_reads_both_of_its_inputs():
    image = keras.Input((5,))
    add = layers.Add()
    keras.Model(image, add([image, image]))
    assert flops.bytes_of_layer(add, images=2) == 4 * 2 * 3 * 5


def test_a_transformer_costs_what_its_blocks_cost():
    n, size = 64, 24
    attention = 4 * n * size * size + 2 * n**2 * size
    dense = 2 * n * size * (2 * size)
    patches = n * (4 * 4 * 3) * size
    network = models.vision_transformer((32, 32, 3), size, blocks=3)
    assert flops.forward(network) == 2 * (patches + 3 * (attention + dense))


def test_what_is_kept_is_what_the_way_back_needs():
    stage = [
        layers.Rescaling(1 / 255),  # 8·8·2, the input of the convolution
        layers.Conv2D(6, 3, 2, "same", use_bias=False),  # 4·4·6, the input of the norm
        layers.BatchNormalization(),  # nothing
        layers.ReLU(),  # 4·4·6, the input of the dense layer
        layers.Flatten(),  # the same numbers again
        layers.Dense(3),  # 3
    ]
    network = model((8, 8, 2), *stage)
    kept = 8 * 8 * 2 + 2 * 4 * 4 * 6 + 3
    assert flops.numbers_kept(network) == kept
    assert flops.numbers_kept(model((8, 8, 2), network)) == kept
    weights = 9 * 2 * 6 + 4 * 6 + (96 + 1) * 3
    assert flops.training_memory(network, 5) == 4 * (4 * weights + 5 * kept)


def test_a_layer_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"pretrain\.flops"):
        flops.forward(model((8, 8, 2), layers.SeparableConv2D(6, 3)))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="asks XLA")
def test_the_compiler_counts_the_same():
    import jax

    network = models.residual_encoder((32, 32, 3), (8, 16, 32))
    image = np.zeros((1, 32, 32, 3), "float32")
    lowered = jax.jit(lambda x: network(x, training=False)).lower(image)
    counted = lowered.compile().cost_analysis()["flops"]
    assert flops.forward(network) == pytest.approx(counted, rel=0.1)
