// The operators of convolution.py on CPUs; cpu.py compiles and calls this, with TDN_REAL float or double and
// TDN_MAX_COLUMNS.
//
//   S(g, y, b, T, x) = sum_e sum_{j r l p u}  g[n_e, r, u]  y[e, r, j, l]  b[e, j, p]  T[k_e + p, l, u]  x[s_e, r, u]
//
// Columns c = (j, l) run over pairs and degrees together. Radial weights w[c, u] of an edge are made where they are
// needed and stay in the first-level cache; channels are the lanes of vectors, a multiple of their number (the caller
// pads). Sums run in the order of the edges, so that results do not depend on the number of threads, but for those of
// the table, which are sums of one table a thread.

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRankBlock = 8;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRankBlock = 4;
#else
constexpr int kVectorBytes = 16, kRankBlock = 4;
#endif

constexpr int kMaxColumns = TDN_MAX_COLUMNS;  // pairs times degrees

template <typename T>
struct Vector {
    static constexpr int lanes = kVectorBytes / sizeof(T);
    typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Vec = typename Vector<T>::type;
template <typename T>
constexpr int Lanes = Vector<T>::lanes;

template <typename T>
inline Vec<T> load(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}
template <typename T>
inline void store(T* p, Vec<T> v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}

// Must agree with `_Problem` in cpu.py.
struct Problem {
    const void *g, *y, *basis, *table, *x;
    const int64_t *knot, *senders, *receivers, *order, *offsets;
    void *out, *out_basis;
    int64_t nodes, edges, ranks, pairs, degrees, channels, width, rows, threads;
};

template <typename T>
struct View {
    const T *g, *y, *basis, *table, *x;
    const int64_t *knot, *senders, *receivers, *order, *offsets;
    int64_t N, E, R, J, W, U, P, rows;
    int threads;

    explicit View(const Problem& p)
        : g(static_cast<const T*>(p.g)), y(static_cast<const T*>(p.y)), basis(static_cast<const T*>(p.basis)),
          table(static_cast<const T*>(p.table)), x(static_cast<const T*>(p.x)), knot(p.knot), senders(p.senders),
          receivers(p.receivers), order(p.order), offsets(p.offsets), N(p.nodes), E(p.edges), R(p.ranks), J(p.pairs),
          W(p.degrees), U(p.channels), P(p.width), rows(p.rows), threads(static_cast<int>(p.threads)) {}

    int64_t row(int64_t e) const { return knot ? knot[e] : e; }
};

// sum_p b[p] q[p step], the number of terms known to the compiler for the splines in use: cubic and quintic.
template <typename T, int P>
inline Vec<T> weighted_rows(const T* q, int64_t step, const T* b) {
    Vec<T> sum = load(q) * b[0];
#pragma GCC unroll 8
    for (int p = 1; p < P; p++) sum += load(q + p * step) * b[p];
    return sum;
}

template <typename T>
inline Vec<T> weighted_rows(const T* q, int64_t step, const T* b, int64_t P) {
    if (P == 4) return weighted_rows<T, 4>(q, step, b);
    if (P == 6) return weighted_rows<T, 6>(q, step, b);
    Vec<T> sum = load(q) * b[0];
    for (int64_t p = 1; p < P; p++) sum += load(q + p * step) * b[p];
    return sum;
}

// Radial weights of edge e in the B vectors of channels from u on: w[c * stride + i].
template <typename T, int B>
inline void radial_weights(const View<T>& v, int64_t e, int64_t u, Vec<T>* w, int64_t stride) {
    const T* rows = v.table + v.row(e) * v.W * v.U + u;
    const int64_t step = v.W * v.U;
    const T* b = v.basis + e * v.J * v.P;
    for (int64_t j = 0; j < v.J; j++, b += v.P)
        for (int64_t l = 0; l < v.W; l++) {
            const T* t = rows + l * v.U;
            for (int i = 0; i < B; i++) w[(j * v.W + l) * stride + i] = weighted_rows(t + i * Lanes<T>, step, b, v.P);
        }
}

// ---------------------------------------------------------------------------------------------------------------------
// dS/dg

constexpr int kChunkVectors = 384;  // radial weights of so many edges at a time as fit in the first-level cache

// Adds the messages of `count` edges to Q ranks and B vectors of channels of one node.
template <typename T, int CT, int Q, int B>
inline void add_messages(
    const View<T>& v, const int64_t* order, int count, int64_t r, int64_t u, const Vec<T>* w, T* out, bool first
) {
    const int C = CT ? CT : static_cast<int>(v.J * v.W);
    Vec<T> sum[Q][B];
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < B; i++) sum[q][i] = first ? Vec<T>{} : load(out + (r + q) * v.U + u + i * Lanes<T>);
    for (int k = 0; k < count; k++, w += C * B) {
        const int64_t e = order[k];
        const T* x = v.x + (v.senders[e] * v.R + r) * v.U + u;
        const T* y = v.y + (e * v.R + r) * C;
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++, x += v.U, y += C) {
            Vec<T> coefficient[B];
            for (int i = 0; i < B; i++) coefficient[i] = w[i] * y[0];
#pragma GCC unroll 16
            for (int c = 1; c < C; c++)
                for (int i = 0; i < B; i++) coefficient[i] += w[c * B + i] * y[c];
            for (int i = 0; i < B; i++) sum[q][i] += coefficient[i] * load(x + i * Lanes<T>);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < B; i++) store(out + (r + q) * v.U + u + i * Lanes<T>, sum[q][i]);
}

template <typename T, int CT, int B>
inline void aggregate_node(const View<T>& v, int64_t n, int64_t u, T* out) {
    const int C = CT ? CT : static_cast<int>(v.J * v.W);
    Vec<T> w[kChunkVectors];
    const int chunk = kChunkVectors / (C * B) < 32 ? kChunkVectors / (C * B) : 32;
    int64_t begin = v.offsets[n];
    const int64_t end = v.offsets[n + 1];
    if (begin == end)
        for (int64_t r = 0; r < v.R; r++)
            for (int i = 0; i < B; i++) store(out + r * v.U + u + i * Lanes<T>, Vec<T>{});
    for (bool first = true; begin < end; begin += chunk, first = false) {
        const int count = static_cast<int>(end - begin < chunk ? end - begin : chunk);
        const int64_t* order = v.order + begin;
        for (int k = 0; k < count; k++) radial_weights<T, B>(v, order[k], u, w + k * C * B, B);
        int64_t r = 0;
        for (; r + kRankBlock <= v.R; r += kRankBlock)
            add_messages<T, CT, kRankBlock, B>(v, order, count, r, u, w, out, first);
        if (r + 4 <= v.R) add_messages<T, CT, 4, B>(v, order, count, r, u, w, out, first), r += 4;
        if (r + 2 <= v.R) add_messages<T, CT, 2, B>(v, order, count, r, u, w, out, first), r += 2;
        if (r < v.R) add_messages<T, CT, 1, B>(v, order, count, r, u, w, out, first);
    }
}

template <typename T, int CT>
void aggregate(const View<T>& v, T* out) {
#pragma omp parallel for schedule(dynamic, 8) num_threads(v.threads) if (v.threads > 1)
    for (int64_t n = 0; n < v.N; n++) {
        T* node = out + n * v.R * v.U;
        int64_t u = 0;
        for (; u + 2 * Lanes<T> <= v.U; u += 2 * Lanes<T>) aggregate_node<T, CT, 2>(v, n, u, node);
        if (u < v.U) aggregate_node<T, CT, 1>(v, n, u, node);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// dS/dy and dS/db

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TDN_SHUFFLE
#endif
#endif

#ifdef TDN_SHUFFLE
// Within segments of S lanes: the lower (half 0) or upper half of a's, then of b's.
template <int S, int half, typename T, size_t... I>
inline Vec<T> halves(Vec<T> a, Vec<T> b, std::index_sequence<I...>) {
    constexpr int L = Lanes<T>;
    return __builtin_shufflevector(
        a, b, (static_cast<int>(I) / S * S + half * (S / 2) + static_cast<int>(I) % (S / 2) + (I % S < S / 2 ? 0 : L))...
    );
}

// Sums over lanes of L vectors at once: halves the number of vectors and of lanes in a sum at every step.
template <typename T, int S>
inline void fold(Vec<T>* v) {
    constexpr auto lanes = std::make_index_sequence<Lanes<T>>{};
    if constexpr (S > 1) {
        for (int i = 0; i < S / 2; i++)
            v[i] = halves<S, 0, T>(v[i], v[i + S / 2], lanes) + halves<S, 1, T>(v[i], v[i + S / 2], lanes);
        fold<T, S / 2>(v);
    }
}
#endif

// Sums over the lanes of `count` vectors, as many at a time as a vector has lanes; what stands behind them is lost.
template <typename T>
inline void sum_lanes(Vec<T>* v, int64_t count, T* out) {
    constexpr int L = Lanes<T>;
    for (int64_t i = count; i % L; i++) v[i] = Vec<T>{};
    for (int64_t done = 0; done < count; done += L) {
#ifdef TDN_SHUFFLE
        fold<T, L>(v + done);
        const Vec<T> sums = v[done];
#else
        Vec<T> sums{};
        for (int k = 0; k < L; k++)
            for (int i = 0; i < L; i++) sums[k] += v[done + k][i];
#endif
        if (done + L <= count)
            store(out + done, sums);
        else
            for (int64_t i = done; i < count; i++) out[i] = sums[i - done];
    }
}

// Vectors of channels of an edge that are held in registers at a time, with their weights and what adds to dS/dw.
constexpr int edge_block(int columns) { return columns == 0 || columns > 7 ? 1 : columns > 3 ? 2 : 4; }

// For B vectors of channels from u on: products with the weights, to be summed over lanes, [R, C], and dS/dw, [C, U].
template <typename T, int CT, int B>
inline void edge_channels(const View<T>& v, int64_t e, int64_t u, Vec<T>* to_y, Vec<T>* to_w) {
    constexpr int room = CT ? CT : kMaxColumns;
    const int C = CT ? CT : static_cast<int>(v.J * v.W);
    const T *g = v.g + v.receivers[e] * v.R * v.U + u, *x = v.x + v.senders[e] * v.R * v.U + u, *y = v.y + e * v.R * C;
    Vec<T> w[room * B], gradient[room * B] = {};
    radial_weights<T, B>(v, e, u, w, B);
    for (int64_t r = 0; r < v.R; r++, g += v.U, x += v.U, y += C, to_y += C) {
        Vec<T> product[B];
        for (int i = 0; i < B; i++) product[i] = load(g + i * Lanes<T>) * load(x + i * Lanes<T>);
#pragma GCC unroll 16
        for (int c = 0; c < C; c++) {
            Vec<T> sum = product[0] * w[c * B];
            for (int i = 1; i < B; i++) sum += product[i] * w[c * B + i];
            for (int i = 0; i < B; i++) gradient[c * B + i] += product[i] * y[c];
            to_y[c] = u ? to_y[c] + sum : sum;
        }
    }
    const int64_t vectors = v.U / Lanes<T>, first = u / Lanes<T>;
#pragma GCC unroll 16
    for (int c = 0; c < C; c++)
        for (int i = 0; i < B; i++) to_w[c * vectors + first + i] = gradient[c * B + i];
}

template <typename T, int CT>
inline void edge(const View<T>& v, int64_t e, Vec<T>* to_y, Vec<T>* to_w, T* out_y, T* out_basis) {
    constexpr int B = edge_block(CT);
    const int64_t C = CT ? CT : v.J * v.W, vectors = v.U / Lanes<T>, step = v.W * v.U;
    int64_t u = 0;
    for (; u + B * Lanes<T> <= v.U; u += B * Lanes<T>) edge_channels<T, CT, B>(v, e, u, to_y, to_w);
    for (; u < v.U; u += Lanes<T>) edge_channels<T, CT, 1>(v, e, u, to_y, to_w);
    sum_lanes<T>(to_y, v.R * C, out_y + e * v.R * C);

    const T* rows = v.table + v.row(e) * step;
    for (int64_t j = 0; j < v.J; j++)
        for (int64_t p = 0; p < v.P; p++) {
            Vec<T> sum[2] = {};
            const Vec<T>* gradient = to_w + j * v.W * vectors;
            const T* t = rows + p * step;
            int64_t i = 0;
            for (; i + 2 <= v.W * vectors; i += 2) {
                sum[0] += gradient[i] * load(t + i * Lanes<T>);
                sum[1] += gradient[i + 1] * load(t + (i + 1) * Lanes<T>);
            }
            if (i < v.W * vectors) sum[0] += gradient[i] * load(t + i * Lanes<T>);
            to_y[j * v.P + p] = sum[0] + sum[1];
        }
    sum_lanes<T>(to_y, v.J * v.P, out_basis + e * v.J * v.P);
}

template <typename T, int CT>
void edge_gradients(const View<T>& v, T* out_y, T* out_basis) {
    const int64_t C = v.J * v.W, most = v.R * C > v.J * v.P ? v.R * C : v.J * v.P;
    const size_t sums = most + Lanes<T>, size = sums + C * (v.U / Lanes<T>);
#pragma omp parallel num_threads(v.threads) if (v.threads > 1)
    {
        auto* buffer = static_cast<Vec<T>*>(::operator new(size * sizeof(Vec<T>), std::align_val_t(kVectorBytes)));
#pragma omp for schedule(static)
        for (int64_t e = 0; e < v.E; e++) edge<T, CT>(v, e, buffer, buffer + sums, out_y, out_basis);
        ::operator delete(buffer, std::align_val_t(kVectorBytes));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// dS/dT

// Adds what one edge says in B vectors of channels.
template <typename T, int CT, int B>
inline void add_to_table(const View<T>& v, int64_t e, int64_t u, T* out) {
    constexpr int room = CT ? CT : kMaxColumns;
    const T *g = v.g + v.receivers[e] * v.R * v.U + u, *x = v.x + v.senders[e] * v.R * v.U + u;
    const int64_t C = CT ? CT : v.J * v.W, step = v.W * v.U;
    const T *y = v.y + e * v.R * C, *b = v.basis + e * v.J * v.P;
    Vec<T> to_w[room][B] = {};
    for (int64_t r = 0; r < v.R; r++, g += v.U, x += v.U, y += C) {
        Vec<T> product[B];
        for (int i = 0; i < B; i++) product[i] = load(g + i * Lanes<T>) * load(x + i * Lanes<T>);
#pragma GCC unroll 16
        for (int c = 0; c < C; c++)
            for (int i = 0; i < B; i++) to_w[c][i] += product[i] * y[c];
    }
    T* rows = out + v.row(e) * step + u;
    for (int64_t p = 0; p < v.P; p++)
        for (int64_t l = 0; l < v.W; l++)
            for (int i = 0; i < B; i++) {
                T* t = rows + p * step + l * v.U + i * Lanes<T>;
                Vec<T> sum = load(t);
                for (int64_t j = 0; j < v.J; j++) sum += to_w[j * v.W + l][i] * b[j * v.P + p];
                store(t, sum);
            }
}

template <typename T, int CT>
void add_edges(const View<T>& v, int64_t begin, int64_t end, T* out) {
    for (int64_t e = begin; e < end; e++) {
        int64_t u = 0;
        if constexpr (CT > 0 && CT <= 5)
            for (; u + 4 * Lanes<T> <= v.U; u += 4 * Lanes<T>) add_to_table<T, CT, 4>(v, e, u, out);
        for (; u + 2 * Lanes<T> <= v.U; u += 2 * Lanes<T>) add_to_table<T, CT, 2>(v, e, u, out);
        if (u < v.U) add_to_table<T, CT, 1>(v, e, u, out);
    }
}

template <typename T, int CT>
void table_gradient(const View<T>& v, T* out) {
    const int64_t size = v.rows * v.W * v.U;
    std::memset(out, 0, size * sizeof(T));
    // Edges with rows of their own can share one table; others have a table a thread, summed in the threads' order.
    T* others = v.threads > 1 && v.knot ? new T[size * (v.threads - 1)]() : nullptr;
#pragma omp parallel for schedule(static, 1) num_threads(v.threads) if (v.threads > 1)
    for (int t = 0; t < v.threads; t++) {
        T* mine = others && t ? others + size * (t - 1) : out;
        add_edges<T, CT>(v, v.E * t / v.threads, v.E * (t + 1) / v.threads, mine);
    }
    if (!others) return;
#pragma omp parallel for schedule(static) num_threads(v.threads)
    for (int64_t k = 0; k < size; k++)
        for (int t = 0; t < v.threads - 1; t++) out[k] += others[size * t + k];
    delete[] others;
}

// ---------------------------------------------------------------------------------------------------------------------

// Calls `f` with the number of columns as a constant, 0 for those that have no code of their own.
template <typename F>
void with_columns(int64_t columns, F f) {
    switch (columns) {
        case 1: return f(std::integral_constant<int, 1>{});
        case 2: return f(std::integral_constant<int, 2>{});
        case 3: return f(std::integral_constant<int, 3>{});
        case 4: return f(std::integral_constant<int, 4>{});
        case 5: return f(std::integral_constant<int, 5>{});
        case 6: return f(std::integral_constant<int, 6>{});
        case 7: return f(std::integral_constant<int, 7>{});
        case 8: return f(std::integral_constant<int, 8>{});
        case 10: return f(std::integral_constant<int, 10>{});
        case 12: return f(std::integral_constant<int, 12>{});
        case 14: return f(std::integral_constant<int, 14>{});
        default: return f(std::integral_constant<int, 0>{});
    }
}

void run(int which, const Problem& p) {
    using T = TDN_REAL;
    const View<T> v(p);
    T* out = static_cast<T*>(p.out);
    with_columns(v.J * v.W, [&](auto columns) {
        constexpr int C = decltype(columns)::value;
        if (which == 0) aggregate<T, C>(v, out);
        if (which == 1) edge_gradients<T, C>(v, out, static_cast<T*>(p.out_basis));
        if (which == 2) table_gradient<T, C>(v, out);
    });
}

}  // namespace

extern "C" {

// Lanes of a vector; the number of channels must be a multiple.
int tdn_lanes() { return Lanes<TDN_REAL>; }

// Operator 0 aggregate, 1 edge_gradients, 2 table_gradient.
void tdn_run(int which, const Problem* problem) { run(which, *problem); }

void tdn_group_by(const int64_t* index, int64_t count, int64_t size, int64_t* order, int64_t* offsets) {
    std::memset(offsets, 0, (size + 1) * sizeof(int64_t));
    for (int64_t e = 0; e < count; e++) offsets[index[e] + 1]++;
    for (int64_t n = 0; n < size; n++) offsets[n + 1] += offsets[n];
    for (int64_t e = 0; e < count; e++) order[offsets[index[e]]++] = e;
    for (int64_t n = size; n > 0; n--) offsets[n] = offsets[n - 1];
    offsets[0] = 0;
}
}
