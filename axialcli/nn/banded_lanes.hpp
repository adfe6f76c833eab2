/* Banded softmax attention for one width of vectors and one type of numbers; included once for each.
 *
 * The includer defines BFLOAT16 (whether numbers lie in memory as such, or as float), LANES (numbers in a vector),
 * QUERIES and KEYS (the block of scores that fits the registers; each query of it meets the keys of all, so that
 * few are better), TARGET (the instructions that may be used), NAME(x) (a name of its own), and LOW and HIGH (which
 * numbers of two vectors interleave their lower and their upper halves). BFLOAT16 and NAME end with the file, so
 * that the other type can follow.
 *
 * All arithmetic is in float32. A vector holds the same channel of LANES lines, so that a softmax over keys never
 * looks across a vector. Buffers are [position][channel][lane].
 */

#if BFLOAT16
typedef uint16_t NAME(number);
#else
typedef float NAME(number);
#endif
#define NUMBER NAME(number)

typedef float NAME(vector) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(whole) __attribute__((vector_size(4 * LANES)));
typedef uint32_t NAME(bits) __attribute__((vector_size(4 * LANES)));
typedef NUMBER NAME(stored) __attribute__((vector_size(sizeof(NUMBER) * LANES)));
typedef NUMBER NAME(anywhere) __attribute__((vector_size(sizeof(NUMBER) * LANES), aligned(sizeof(NUMBER))));

#define VECTOR NAME(vector)
#define WHOLE NAME(whole)
#define INLINE static inline __attribute__((always_inline)) TARGET

/* e to the power of numbers up to 0, to 1 part in 10 million; far below, and of -inf, some 1e-38; NaN stays.
 * Cody-Waite and Taylor. */
INLINE VECTOR NAME(exponential)(VECTOR x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    const VECTOR none = {0}, lowest = none - 87.0f;
    x = x < lowest ? lowest : x;
    const VECTOR shifted = x * 1.44269504088896341f + magic;
    const VECTOR turns = shifted - magic;
    const VECTOR r = (x - turns * 0.693359375f) + turns * 2.12194440054690583e-4f;
    VECTOR p = r * 1.9841269841e-4f + 1.3888888889e-3f;
    p = p * r + 8.3333333333e-3f;
    p = p * r + 4.1666666667e-2f;
    p = p * r + 1.6666666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const VECTOR power = (VECTOR)((WHOLE)p + ((WHOLE)shifted << 23));
    return x == x ? power : x;
}

/* Rows of a square of LANES x LANES become its columns: perfect shuffles, as many as halvings of LANES. */
INLINE void NAME(transpose)(VECTOR square[LANES])
{
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        VECTOR shuffled[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            shuffled[2 * i] = __builtin_shufflevector(square[i], square[i + LANES / 2], LOW);
            shuffled[2 * i + 1] = __builtin_shufflevector(square[i], square[i + LANES / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            square[i] = shuffled[i];
    }
}

/* LANES numbers that lie anywhere in memory, and one. A bfloat16 is the upper half of a float. */
INLINE VECTOR NAME(load)(const NUMBER *from)
{
    const NAME(stored) numbers = *(const NAME(anywhere) *)from;
#if BFLOAT16
    return (VECTOR)(__builtin_convertvector(numbers, NAME(bits)) << 16);
#else
    return numbers;
#endif
}

INLINE float NAME(load_one)(const NUMBER *from)
{
#if BFLOAT16
    const uint32_t bits = (uint32_t)*from << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
#else
    return *from;
#endif
}

/* The way back. A bfloat16 is the nearest one, of two as near the even one; NaN stays NaN. */
INLINE NAME(stored) NAME(narrow)(VECTOR x)
{
#if BFLOAT16
    const NAME(bits) bits = (NAME(bits))x;
    const NAME(bits) rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : (bits >> 16) | 0x40, NAME(stored));
#else
    return x;
#endif
}

/* Asks for the channels of one position of LANES lines, so that they are near when their turn comes: lines lie
 * far apart, and what the processor foresees on its own is too little. */
INLINE void NAME(fetch)(const NUMBER *const lines[LANES], int64_t offset, int64_t channels)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t c = 0; c < channels; c += CACHE_LINE / (int64_t)sizeof(NUMBER))
            __builtin_prefetch(lines[lane] + offset + c, 0, 2);
}

/* Keys and values of the next head, asked for from memory little by little while there is something to compute: who
 * gathers them would only wait. key, lane: the first that was not asked for yet; at_once: lanes in one turn. */
typedef struct {
    const NUMBER *const *k_lines, *const *v_lines;
    const Band *band;
    int64_t head, key, high, at_once;
    int lane;
} NAME(Coming);

INLINE void NAME(ask)(NAME(Coming) *coming)
{
    const Band *const band = coming->band;
    for (int64_t i = 0; i < coming->at_once && coming->key < coming->high; i++) {
        const int64_t slot = band->slots ? band->slots[coming->key] : coming->key;
        const int64_t offset = slot * band->of_k.along + coming->head * band->of_k.head;
        for (int64_t c = 0; c < band->channels; c += CACHE_LINE / (int64_t)sizeof(NUMBER)) {
            __builtin_prefetch(coming->k_lines[coming->lane] + offset + c, 0, 2);
            __builtin_prefetch(coming->v_lines[coming->lane] + offset + c, 0, 2);
        }
        if (++coming->lane == LANES) {
            coming->lane = 0;
            coming->key++;
        }
    }
}

/* The channels of one position of LANES lines, times `scale`, into [channel][lane]. */
INLINE void NAME(gather)(VECTOR *to, const NUMBER *const lines[LANES], int64_t offset, int64_t channels, float scale)
{
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
        VECTOR square[LANES];
#pragma GCC unroll 16
        for (int lane = 0; lane < LANES; lane++)
            square[lane] = NAME(load)(lines[lane] + offset + c) * scale;
        NAME(transpose)(square);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            to[c + i] = square[i];
    }
    for (; c < channels; c++)
        for (int lane = 0; lane < LANES; lane++)
            to[c][lane] = NAME(load_one)(lines[lane] + offset + c) * scale;
}

/* The way back, for the first `count` lines. */
INLINE void NAME(scatter)(NUMBER *const lines[LANES], int64_t offset, const VECTOR *from, int64_t channels, int count)
{
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
        VECTOR square[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            square[i] = from[c + i];
        NAME(transpose)(square);
        for (int lane = 0; lane < count; lane++)
            *(NAME(anywhere) *)(lines[lane] + offset + c) = NAME(narrow)(square[lane]);
    }
    for (; c < channels; c++) {
        const NAME(stored) numbers = NAME(narrow)(from[c]);
        for (int lane = 0; lane < count; lane++)
            lines[lane][offset + c] = numbers[lane];
    }
}

/* Scores of QUERIES queries and `keys` keys (rounded up to KEYS), into scores[query][key], `room` keys apart. */
INLINE void NAME(score)(VECTOR *scores, int64_t room, const VECTOR *q, const VECTOR *k, int64_t keys, int64_t channels,
                        NAME(Coming) *coming)
{
    for (int64_t key = 0; key < keys; key += KEYS) {
        NAME(ask)(coming);
        VECTOR sum[QUERIES][KEYS];
        memset(sum, 0, sizeof sum);
        for (int64_t c = 0; c < channels; c++) {
            VECTOR seen[KEYS];
#pragma GCC unroll 16
            for (int j = 0; j < KEYS; j++)
                seen[j] = k[(key + j) * channels + c];
#pragma GCC unroll 16
            for (int i = 0; i < QUERIES; i++) {
                const VECTOR asks = q[i * channels + c];
#pragma GCC unroll 16
                for (int j = 0; j < KEYS; j++)
                    sum[i][j] += asks * seen[j];
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 16
            for (int j = 0; j < KEYS; j++)
                scores[i * room + key + j] = sum[i][j];
    }
}

/* Scores of a query become weights: softmax over [first, last), 0 elsewhere. Returns 1 / their sum, which
 * they are not yet multiplied by. bias: of the key at `first`, or NULL. */
INLINE VECTOR NAME(weigh)(VECTOR *scores, int64_t first, int64_t last, int64_t keys, const float *bias)
{
    const VECTOR none = {0};
    for (int64_t j = 0; j < first; j++)
        scores[j] = none;
    for (int64_t j = last; j < keys; j++)
        scores[j] = none;
    if (bias)
        for (int64_t j = first; j < last; j++)
            scores[j] += bias[j - first];
    VECTOR most = scores[first];
    for (int64_t j = first + 1; j < last; j++)
        most = scores[j] > most ? scores[j] : most;
    VECTOR sum = none;
    for (int64_t j = first; j < last; j++) {
        scores[j] = NAME(exponential)(scores[j] - most);
        sum += scores[j];
    }
    return 1.0f / sum;
}

/* Values weighed for QUERIES queries at once, into out[query][channel]. */
INLINE void NAME(mix)(VECTOR *out, const VECTOR *weights, int64_t room, const VECTOR *v, int64_t keys,
                      int64_t channels, const VECTOR *inverse, NAME(Coming) *coming)
{
    int64_t c = 0;
    for (; c + CHANNELS <= channels; c += CHANNELS) {
        NAME(ask)(coming);
        VECTOR sum[QUERIES][CHANNELS];
        memset(sum, 0, sizeof sum);
        for (int64_t j = 0; j < keys; j++) {
            VECTOR value[CHANNELS];
#pragma GCC unroll 16
            for (int d = 0; d < CHANNELS; d++)
                value[d] = v[j * channels + c + d];
#pragma GCC unroll 16
            for (int i = 0; i < QUERIES; i++) {
                const VECTOR weight = weights[i * room + j];
#pragma GCC unroll 16
                for (int d = 0; d < CHANNELS; d++)
                    sum[i][d] += weight * value[d];
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 16
            for (int d = 0; d < CHANNELS; d++)
                out[i * channels + c + d] = sum[i][d] * inverse[i];
    }
    for (; c < channels; c++)
        for (int i = 0; i < QUERIES; i++) {
            VECTOR sum = {0};
            for (int64_t j = 0; j < keys; j++)
                sum += weights[i * room + j] * v[j * channels + c];
            out[i * channels + c] = sum * inverse[i];
        }
}

/* Keys that one part transposes, and that one block of queries meets, at most. */
INLINE int64_t NAME(window)(const Band *band) { return smaller(CHUNK + band->span - 1, band->keys) + KEYS; }
INLINE int64_t NAME(room)(const Band *band) { return smaller(QUERIES + band->span - 1, band->keys) + KEYS; }

/* Bytes of a thread's buffers. */
static TARGET size_t NAME(bytes)(const Band *band)
{
    const int64_t numbers = (2 * NAME(window)(band) + 2 * QUERIES) * band->channels + QUERIES * NAME(room)(band);
    return (size_t)numbers * sizeof(VECTOR);
}

/* Parts [first, last) of a band: [group of LANES lines][chunk of queries]. buffers: zero before the first. */
static TARGET void NAME(parts)(const Band *band, void *buffers, int64_t first, int64_t last)
{
    const int64_t channels = band->channels, radius = band->span / 2;
    const int64_t window = NAME(window)(band), room = NAME(room)(band);
    VECTOR *const memory = (VECTOR *)buffers;
    VECTOR *const k = memory, *const v = k + window * channels, *const q = v + window * channels;
    VECTOR *const out = q + QUERIES * channels, *const scores = out + QUERIES * channels;
    const float scale = 1.0f / sqrtf((float)channels);

    const int64_t chunks = (band->queries + CHUNK - 1) / CHUNK;
    for (int64_t part = first; part < last; part++) {
        const int64_t line = part / chunks * LANES, start = part % chunks * CHUNK;
        const int64_t stop = smaller(start + CHUNK, band->queries);
        const int here = (int)smaller(LANES, band->lines - line);
        const NUMBER *q_lines[LANES], *k_lines[LANES], *v_lines[LANES];
        NUMBER *out_lines[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t number = line + (lane < here ? lane : here - 1);
            const int64_t outer = number / band->inner, inner = number % band->inner;
            q_lines[lane] = (const NUMBER *)band->q + outer * band->of_q.outer + inner * band->of_q.inner;
            k_lines[lane] = (const NUMBER *)band->k + outer * band->of_k.outer + inner * band->of_k.inner;
            v_lines[lane] = (const NUMBER *)band->v + outer * band->of_k.outer + inner * band->of_k.inner;
            out_lines[lane] = (NUMBER *)band->out + outer * band->of_out.outer + inner * band->of_out.inner;
        }
        const int64_t low = larger(0, start + band->ahead - radius);
        const int64_t high = smaller(band->keys, stop + band->ahead + radius);
        for (int64_t head = 0; head < band->heads; head++) {
            const float *const bias = band->bias ? band->bias + head * band->span : NULL;
            for (int64_t key = low; key < high; key++) {
                const int64_t slot = band->slots ? band->slots[key] : key;
                const int64_t offset = slot * band->of_k.along + head * band->of_k.head;
                const int64_t next = smaller(key + AHEAD, high - 1), next_slot = band->slots ? band->slots[next] : next;
                const int64_t next_offset = next_slot * band->of_k.along + head * band->of_k.head;
                NAME(fetch)(k_lines, next_offset, channels);
                NAME(fetch)(v_lines, next_offset, channels);
                NAME(gather)(k + (key - low) * channels, k_lines, offset, channels, 1.0f);
                NAME(gather)(v + (key - low) * channels, v_lines, offset, channels, 1.0f);
            }
            const int64_t turns = (stop - start + QUERIES - 1) / QUERIES
                * (smaller(band->span, high - low) / KEYS + channels / CHANNELS);
            NAME(Coming) coming = {k_lines, v_lines, band, head + 1, low, head + 1 < band->heads ? high : low,
                                   (high - low) * LANES / larger(turns, 1) + 1, 0};
            for (int64_t query = start; query < stop; query += QUERIES) {
                const int some = (int)smaller(QUERIES, stop - query);
                const int64_t from = larger(0, query + band->ahead - radius);
                const int64_t to = smaller(band->keys, query + some + band->ahead + radius);
                VECTOR inverse[QUERIES];
                for (int i = 0; i < some; i++)
                    NAME(gather)(q + i * channels, q_lines,
                                 (query + i) * band->of_q.along + head * band->of_q.head, channels, scale);
                for (int64_t i = query + QUERIES; i < smaller(query + 2 * QUERIES, stop); i++)
                    NAME(fetch)(q_lines, i * band->of_q.along + head * band->of_q.head, channels);
                for (int i = 0; i < some; i++)
                    NAME(fetch)((const NUMBER *const *)out_lines,
                                (query + i) * band->of_out.along + head * band->of_out.head, channels);
                NAME(score)(scores, room, q, k + (from - low) * channels, to - from, channels, &coming);
                for (int i = 0; i < QUERIES; i++) {
                    const int64_t own = query + (i < some ? i : some - 1) + band->ahead;
                    const int64_t begin = larger(0, own - radius);
                    const int64_t end = smaller(band->keys, own + radius + 1);
                    inverse[i] = NAME(weigh)(scores + i * room, begin - from, end - from, to - from,
                                             bias ? bias + (begin - own + radius) : NULL);
                }
                NAME(mix)(out, scores, room, v + (from - low) * channels, to - from, channels, inverse, &coming);
                for (int i = 0; i < some; i++)
                    NAME(scatter)(out_lines, (query + i) * band->of_out.along + head * band->of_out.head,
                                  out + i * channels, channels, here);
            }
        }
    }
}

#undef VECTOR
#undef WHOLE
#undef INLINE
#undef NUMBER
#undef BFLOAT16
#undef NAME
