/* The host core: encoded chunks become a part of the result, without the interpreter.

       file or memory ─read→ encoded ─steps→ decoded ─pieces→ result

   One call takes the rows of one bundle, one after the other, while they are hot in cache; threads are the
   caller's, who holds no lock meanwhile. No codec is in here: they are called by the addresses that the caller
   has of the libraries that its own codecs use (numcodecs', google-crc32c's), so both give the same bytes.

   What it does not take, it leaves: `gz_core_rows` returns at the first row that is damaged, odd, or cannot be
   read, and the caller decodes that one, says what is wrong with it if anything is, and comes back with those
   behind it. So nothing here has to be complete, only never accept what the Python codecs refuse. It writes to
   `result`, inside of the pieces' boxes, to the scratch it was given, and to the counters of the job. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ABI 3
#define MOST_DIMS 33 /* NumPy has 64; arrays of more than 32 are left to it */
#define MOST_STEPS 4

enum { CRC32C = 1, ZSTD, LZ4, BLOSC };

typedef struct {
    int64_t kind;
    int64_t nbytes; /* what it decodes to; negative: at most ~nbytes bytes */
} Step;

typedef struct {
    int64_t steps;
    Step step[MOST_STEPS]; /* in the order of decoding: checksums, then at most one that decompresses */
    int64_t nbytes;        /* of the decoded chunk */
    int64_t plain;         /* which is as the result would hold it, C-contiguous */
    int64_t swap;          /* bytes that change places together on the way into the result; 0: none */
    int64_t stride[MOST_DIMS]; /* bytes between neighbours in the decoded chunk, along each dimension of the result */
    int64_t shape[MOST_DIMS];  /* a piece of this extent is the whole chunk; -1: none is */
} Chain;

typedef struct {
    size_t (*zstd_whole)(void *decoder, void *out, size_t room, const void *src, size_t nbytes);
    size_t (*zstd_reset)(void *decoder, int what);
    size_t (*zstd_stream)(void *decoder, void *out, void *in);
    unsigned (*zstd_is_error)(size_t code);
    int (*lz4)(const char *src, char *out, int nbytes, int room);
    int (*blosc)(const void *src, void *out, size_t room, int threads);
    uint32_t (*crc32c)(uint32_t before, const uint8_t *data, size_t nbytes);
} Library;

typedef struct {
    const Library *library;
    const Chain *chains;
    int64_t dims, itemsize;

    /* The rows: where their encoded bytes lie, 0 for a missing chunk; or files to be read whole. */
    int64_t rows;
    const int64_t *address, *nbytes; /* [rows] */
    const char *paths;               /* one behind the other, each ending in a zero */
    const int64_t *path;             /* [rows]: where each begins */
    /* Or ranges of open files, each with one row or more; those of a range follow one another. */
    const int64_t *fd, *begin, *size; /* [ranges] */
    const int64_t *range, *within;    /* [rows]: which one, and where in it */
    int64_t loaded;                   /* the range that is in `stored`; -1: none */
    const int64_t *chain;            /* [rows] */

    /* The pieces of a row: those of its slot, from first[slot] on; without slots, the one of its own number. */
    const int64_t *slot;  /* [rows] */
    const int64_t *first; /* [slots + 1] */
    int64_t number;       /* of the first row */
    const int64_t *chunk_lo, *out_lo, *extent; /* [pieces, dims] */
    const int64_t *step;                       /* [pieces, dims], or [dims] for all */
    int64_t steps_differ;
    int64_t parts; /* of a chunk that is not wanted whole, less may be decoded than all */

    char *result;
    const int64_t *stride; /* [dims], bytes */
    const char *fill;      /* one item */

    void *decoder;   /* of zstd; the thread's */
    int64_t streams; /* it can be fed block by block */
    char *decoded, *container, *stored; /* scratch: for a chunk, some blocks of a Blosc container, a file */
    int64_t container_room, stored_room;

    int64_t chunks, direct, filled, requests, bytes_read; /* counters */
} Job;

typedef struct {
    const uint8_t *at;
    int64_t nbytes;
} Bytes;

typedef struct {
    int64_t begin, end;
} Range;

static uint32_t u32(const uint8_t *at) { return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24; }

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- zstd: RFC 8878 */

enum { MAX_BLOCK = 128 << 10, LEAST_BLOCK = 4 << 10, RESET_SESSION = 1 };

typedef struct {
    int64_t content; /* -1: it does not say */
    int64_t blocks;  /* where they begin */
    int checksum;
} Frame;

static int zstd_header(Bytes src, Frame *frame) {
    if (src.nbytes < 5 || u32(src.at) != 0xFD2FB528u || src.at[4] & 0x08) return 0;
    int single = src.at[4] >> 5 & 1, code = src.at[4] >> 6, dictionary = src.at[4] & 3;
    int64_t width = code ? 1 << code : single;
    int64_t at = 5 + !single + (dictionary == 3 ? 4 : dictionary);
    if (at + width > src.nbytes) return 0;
    uint64_t content = 0;
    for (int64_t i = 0; i < width; i++) content |= (uint64_t)src.at[at + i] << 8 * i;
    if (width == 2) content += 256;
    frame->content = !width || content > INT64_MAX ? -1 : (int64_t)content;
    frame->blocks = at + width;
    frame->checksum = src.at[4] >> 2 & 1;
    return 1;
}

/* Where the block ends that begins at `at`; 0 if it is not all there. */
static int64_t zstd_block(Bytes src, int64_t at, int *last) {
    if (at + 3 > src.nbytes) return 0;
    uint32_t head = src.at[at] | src.at[at + 1] << 8 | (uint32_t)src.at[at + 2] << 16;
    *last = head & 1;
    at += 3 + ((head >> 1 & 3) == 1 ? 1 : head >> 3);
    return at <= src.nbytes ? at : 0;
}

typedef struct {
    const void *at;
    size_t nbytes, done;
} Buffer; /* ZSTD_inBuffer, ZSTD_outBuffer */

/* The beginning of one frame, block by block, as codecs/zstd_library.py does it. */
static int zstd_prefix(const Job *job, Bytes src, Frame frame, char *out, int64_t nbytes, int64_t end) {
    const Library *library = job->library;
    int last = 0;
    int64_t at = frame.blocks;
    for (int64_t count = 0; !last; count++) {
        if (count > nbytes / LEAST_BLOCK || !(at = zstd_block(src, at, &last))) return 0;
    }
    if (at != src.nbytes) return 0;
    library->zstd_reset(job->decoder, RESET_SESSION);
    Buffer source = {src.at, 0, 0}, target = {out, (size_t)nbytes, 0};
    at = frame.blocks, last = 0;
    while (target.done < (size_t)end) {
        if (last || !(at = zstd_block(src, at, &last))) return 0;
        source.nbytes = (size_t)at;
        if (library->zstd_is_error(library->zstd_stream(job->decoder, &target, &source))) return 0;
    }
    return 1;
}

static int zstd(const Job *job, Bytes src, char *out, int64_t nbytes, Range part) {
    Frame frame;
    if (!job->decoder || !zstd_header(src, &frame) || frame.content != nbytes || !nbytes) return 0;
    int whole = frame.checksum || (part.end - 1) / MAX_BLOCK >= (nbytes - 1) / MAX_BLOCK;
    if (!whole && job->streams && zstd_prefix(job, src, frame, out, nbytes, part.end)) return 1;
    return job->library->zstd_whole(job->decoder, out, (size_t)nbytes, src.at, (size_t)src.nbytes) == (size_t)nbytes;
}

/* ---- LZ4 behind its size, as numcodecs stores it */

static int lz4(const Job *job, Bytes src, char *out, int64_t nbytes) {
    if (src.nbytes < 5 || src.nbytes > INT_MAX || nbytes <= 0 || nbytes > INT_MAX) return 0;
    if (u32(src.at) != (uint32_t)nbytes || nbytes > 255 * src.nbytes) return 0;
    return job->library->lz4((const char *)src.at + 4, out, (int)src.nbytes - 4, (int)nbytes) == nbytes;
}

/* ---- Blosc 1: see codecs/blosc_header.py, which checks the same and says what is wrong */

enum { MEMCPYED = 2, FUTURE = 8, UNSPLIT = 16, SNAPPY = 2, MOST_SPLITS = 16, LEAST_STREAM = 128, HEADER = 16 };
enum { MOST_BLOCK = (INT_MAX - 4 * 255) / 3 };

static int blosc(const Job *job, Bytes src, char *out, int64_t nbytes, Range part) {
    if (src.nbytes < HEADER || nbytes <= 0) return 0;
    int flags = src.at[2], typesize = src.at[3];
    int64_t size = (int32_t)u32(src.at + 8), cbytes = (int32_t)u32(src.at + 12);
    if (src.at[0] != 2 || flags & FUTURE || !typesize || (int32_t)u32(src.at + 4) != nbytes) return 0;
    if (size <= 0 || size > nbytes || size > MOST_BLOCK || cbytes < HEADER || cbytes > src.nbytes) return 0;
    if (flags & MEMCPYED) {
        if (cbytes != nbytes + HEADER) return 0;
        memcpy(out + part.begin, src.at + HEADER + part.begin, (size_t)(part.end - part.begin));
        return 1;
    }
    int64_t count = (nbytes + size - 1) / size, starts = HEADER + 4 * count;
    int one = typesize > MOST_SPLITS || size / typesize < LEAST_STREAM || flags & UNSPLIT;
    if (starts > cbytes - 4 || (!one && size % typesize) || flags >> 5 == SNAPPY) return 0;
    int ordered = 1;
    int64_t before = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t start = (int32_t)u32(src.at + HEADER + 4 * i);
        if (start < starts || start > cbytes - 4) return 0;
        ordered &= start > before;
        before = start;
    }
    int64_t first = part.begin / size, last = (part.end + size - 1) / size;
    if (last == count && nbytes % size && last - first == 1) first--; /* c-blosc takes no container of less than a block */
    if (first >= 0 && first < last && ordered && 4 * (last - first) <= 3 * count) {
        /* Each block is compressed by itself, so a header before some of them is all it takes. */
        int64_t here = (int32_t)u32(src.at + HEADER + 4 * first);
        int64_t there = last < count ? (int32_t)u32(src.at + HEADER + 4 * last) : cbytes;
        int64_t lead = HEADER + 4 * (last - first), made = lead + there - here;
        int32_t plain = (int32_t)(min64(last * size, nbytes) - first * size);
        if (made <= job->container_room) {
            int32_t sizes[3] = {plain, (int32_t)size, (int32_t)made};
            memcpy(job->container, src.at, 4);
            memcpy(job->container + 4, sizes, sizeof sizes);
            for (int64_t i = first; i < last; i++) {
                int32_t start = (int32_t)((int32_t)u32(src.at + HEADER + 4 * i) - here + lead);
                memcpy(job->container + HEADER + 4 * (i - first), &start, sizeof start);
            }
            memcpy(job->container + lead, src.at + here, (size_t)(there - here));
            return job->library->blosc(job->container, out + first * size, (size_t)plain, 1) == plain;
        }
    }
    return job->library->blosc(src.at, out, (size_t)nbytes, 1) == nbytes;
}

/* ---- steps */

/* The decoded chunk, in `out` or where it lies already; nothing at 0. Of its bytes only those of `part` are wanted. */
static Bytes decode(const Job *job, const Chain *chain, Bytes src, char *out, Range part) {
    const Bytes refused = {0, 0};
    for (int64_t i = 0; i < chain->steps; i++) {
        const Step *step = &chain->step[i];
        if (step->kind == CRC32C) {
            int64_t covered = src.nbytes - 4;
            if (covered < 0 || (step->nbytes < 0 ? covered > ~step->nbytes : covered != step->nbytes)) return refused;
            src.nbytes -= 4;
            if (job->library->crc32c(0, src.at, (size_t)src.nbytes) != u32(src.at + src.nbytes)) return refused;
            continue;
        }
        int done = step->kind == ZSTD  ? zstd(job, src, out, step->nbytes, part)
                   : step->kind == LZ4 ? lz4(job, src, out, step->nbytes)
                                       : blosc(job, src, out, step->nbytes, part);
        if (!done) return refused;
        src = (Bytes){(const uint8_t *)out, step->nbytes};
    }
    return src.nbytes == chain->nbytes ? src : refused;
}

/* ---- landing */

#define COPY_ITEMS(type, turned)                          \
    for (int64_t i = 0; i < n; i++) {                     \
        type value;                                       \
        memcpy(&value, src + i * from, sizeof value);     \
        value = turned;                                   \
        memcpy(dst + i * to, &value, sizeof value);       \
    }                                                     \
    return

/* `n` items; from one to the next are so many bytes. */
static void copy_row(char *dst, int64_t to, const char *src, int64_t from, int64_t n, int64_t itemsize, int64_t swap) {
    if (!swap && to == itemsize && from == itemsize) {
        memcpy(dst, src, (size_t)(n * itemsize));
        return;
    }
    switch (swap == itemsize ? -itemsize : swap ? 0 : itemsize) {
    case 1: COPY_ITEMS(uint8_t, value);
    case 2: COPY_ITEMS(uint16_t, value);
    case 4: COPY_ITEMS(uint32_t, value);
    case 8: COPY_ITEMS(uint64_t, value);
    case -2: COPY_ITEMS(uint16_t, __builtin_bswap16(value));
    case -4: COPY_ITEMS(uint32_t, __builtin_bswap32(value));
    case -8: COPY_ITEMS(uint64_t, __builtin_bswap64(value));
    }
    for (int64_t i = 0; i < n; i++) {
        const char *item = src + i * from;
        if (!swap) memcpy(dst + i * to, item, (size_t)itemsize);
        for (int64_t unit = 0; swap && unit < itemsize; unit += swap)
            for (int64_t k = 0; k < swap; k++) dst[i * to + unit + k] = item[unit + swap - 1 - k];
    }
}

typedef struct {
    int64_t n, to, from;
} Axis;

/* A box of items. The axes may be in any order. */
static void copy_box(char *dst, const char *src, Axis *axes, int64_t dims, int64_t itemsize, int64_t swap) {
    int64_t used = 0;
    for (int64_t d = 0; d < dims; d++) { /* those of one item do not count; the one that is densest in dst comes last */
        Axis axis = axes[d];
        if (axis.n == 0) return;
        if (axis.n == 1) continue;
        int64_t at = used++;
        int64_t size = axis.to < 0 ? -axis.to : axis.to;
        for (; at > 0 && (axes[at - 1].to < 0 ? -axes[at - 1].to : axes[at - 1].to) < size; at--) axes[at] = axes[at - 1];
        axes[at] = axis;
    }
    while (used > 1) { /* two that lie on both sides as one would */
        Axis outer = axes[used - 2], inner = axes[used - 1];
        if (outer.to != inner.to * inner.n || outer.from != inner.from * inner.n) break;
        axes[--used - 1] = (Axis){outer.n * inner.n, inner.to, inner.from};
    }
    Axis row = used ? axes[used - 1] : (Axis){1, itemsize, itemsize};
    int64_t outer = used - 1, at[MOST_DIMS] = {0};
    for (;;) {
        copy_row(dst, row.to, src, row.from, row.n, itemsize, swap);
        int64_t d = outer - 1;
        for (; d >= 0; d--) {
            dst += axes[d].to, src += axes[d].from;
            if (++at[d] < axes[d].n) break;
            dst -= axes[d].to * axes[d].n, src -= axes[d].from * axes[d].n;
            at[d] = 0;
        }
        if (d < 0) return;
    }
}

/* Piece `p` of a chunk, or of the fill value where there is none. */
static void land(const Job *job, const Chain *chain, const char *chunk, int64_t p) {
    int64_t dims = job->dims;
    const int64_t *lo = job->chunk_lo + p * dims, *out_lo = job->out_lo + p * dims, *extent = job->extent + p * dims;
    const int64_t *step = job->step + (job->steps_differ ? p * dims : 0);
    const char *src = chunk ? chunk : job->fill;
    char *dst = job->result;
    Axis axes[MOST_DIMS];
    for (int64_t d = 0; d < dims; d++) {
        dst += out_lo[d] * job->stride[d];
        if (chunk) src += lo[d] * chain->stride[d];
        axes[d] = (Axis){extent[d], job->stride[d], chunk ? chain->stride[d] * step[d] : 0};
    }
    copy_box(dst, src, axes, dims, job->itemsize, chunk ? chain->swap : 0);
}

/* Where a whole chunk may be decoded to at once; 0: its piece is cropped, turned, or no one piece of the result. */
static char *landing(const Job *job, const Chain *chain, int64_t p) {
    int64_t dims = job->dims, packed = job->itemsize;
    char *dst = job->result;
    if (!chain->plain) return 0;
    for (int64_t d = dims - 1; d >= 0; d--) {
        int64_t n = job->extent[p * dims + d];
        if (n != chain->shape[d] || (n != 1 && job->stride[d] != packed)) return 0;
        packed *= n;
        dst += job->out_lo[p * dims + d] * job->stride[d];
    }
    return dst;
}

/* The bytes of a decoded chunk that pieces lo to hi (exclusive) look at. */
static Range looked_at(const Job *job, const Chain *chain, int64_t lo, int64_t hi) {
    Range found = {INT64_MAX, 0};
    for (int64_t p = lo; p < hi; p++) {
        int64_t begin = 0, end = job->itemsize;
        const int64_t *step = job->step + (job->steps_differ ? p * job->dims : 0);
        for (int64_t d = 0; d < job->dims; d++) {
            int64_t near = job->chunk_lo[p * job->dims + d];
            int64_t far = near + (job->extent[p * job->dims + d] - 1) * step[d];
            begin += min64(near, far) * chain->stride[d];
            end += max64(near, far) * chain->stride[d];
        }
        found.begin = min64(found.begin, begin);
        found.end = max64(found.end, end);
    }
    return found.begin <= found.end ? found : (Range){0, 0};
}

/* ---- rows */

enum { THERE, MISSING, ODD };
enum { MODEST = 16 << 20, ONE_READ = 1 << 30 }; /* of no more bytes at once is it certain that all of them come */

/* A file's bytes, in scratch, or, if they are just as many as a raw chunk has, at its landing. */
static int read_file(const Job *job, const Chain *chain, const char *path, char *landing, Bytes *found) {
    int fd;
    do fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return errno == ENOENT ? MISSING : ODD;
    /* A byte more than there should be, to see that the file has ended. */
    int64_t room = landing ? chain->nbytes : min64(job->stored_room, 4 * chain->nbytes + MODEST), done = 0;
    ssize_t got = 0;
    char past;
    do {
        struct iovec into[2] = {{(landing ? landing : job->stored) + done, (size_t)(room - done)}, {&past, 1}};
        got = preadv(fd, into, 2, done); /* which pipes refuse */
        if (got > 0) done += got;
    } while ((got > 0 && (done < room || (done == room && room >= ONE_READ))) || (got < 0 && errno == EINTR));
    close(fd);
    *found = (Bytes){(const uint8_t *)(landing ? landing : job->stored), done};
    return got < 0 || done > room || (landing && done != room) ? ODD : THERE;
}

/* The bytes of row r: its range is read where it was not; straight to its landing if it is a raw chunk alone. */
static int read_range(Job *job, int64_t r, char *landing, Bytes *found) {
    int64_t q = job->range[r], size = job->size[q], done = 0;
    int alone = landing && size == job->nbytes[r];
    char *into = alone ? landing : job->stored;
    if (alone || job->loaded != q) {
        job->loaded = -1;
        if (job->fd[q] < 0 || (!alone && size > job->stored_room)) return ODD;
        while (done < size) {
            ssize_t got = pread((int)job->fd[q], into + done, (size_t)(size - done), job->begin[q] + done);
            if (got > 0) done += got;
            else if (!got || errno != EINTR) return ODD;
        }
        job->requests++, job->bytes_read += size;
        if (!alone) job->loaded = q;
    }
    *found = (Bytes){(const uint8_t *)into + (alone ? 0 : job->within[r]), job->nbytes[r]};
    return THERE;
}

/* Whether row r was taken. */
static int take(Job *job, int64_t r) {
    const Chain *chain = &job->chains[job->chain[r]];
    int64_t lo = job->slot ? job->first[job->slot[r]] : job->number + r;
    int64_t hi = job->slot ? job->first[job->slot[r] + 1] : lo + 1;
    char *at = job->slot ? 0 : landing(job, chain, lo);
    Bytes src;
    int state;
    if (job->paths) {
        state = read_file(job, chain, job->paths + job->path[r], chain->steps ? 0 : at, &src);
    } else if (job->fd) {
        state = read_range(job, r, chain->steps || job->nbytes[r] != chain->nbytes ? 0 : at, &src);
    } else {
        src = (Bytes){(const uint8_t *)(intptr_t)job->address[r], job->nbytes[r]};
        state = src.at ? THERE : MISSING;
    }
    if (state == ODD) return 0;
    if (state == MISSING) {
        for (int64_t p = lo; p < hi; p++) land(job, chain, 0, p);
        job->filled += hi - lo;
        job->requests += !!job->paths;
        return 1;
    }
    Bytes chunk = src;
    if (chain->steps || src.nbytes != chain->nbytes) {
        Range part = at || !job->parts ? (Range){0, chain->nbytes} : looked_at(job, chain, lo, hi);
        chunk = decode(job, chain, src, at ? at : job->decoded, part);
        if (!chunk.at) return 0;
    }
    if (chunk.at != (const uint8_t *)at)
        for (int64_t p = lo; p < hi; p++) land(job, chain, (const char *)chunk.at, p);
    else
        job->direct++;
    job->chunks++;
    if (job->paths) job->requests++, job->bytes_read += src.nbytes;
    return 1;
}

/* ---- what the caller calls */

#define PUBLIC __attribute__((visibility("default")))

/* How many rows were taken: all of them, or those before one that is left to the caller. */
PUBLIC int64_t gz_core_rows(Job *job) {
    int64_t r = 0;
    while (r < job->rows && take(job, r)) r++;
    return r;
}

/* What the caller compares with its own idea of this file: the version, and the sizes of what is passed. */
PUBLIC void gz_core_abi(int64_t found[4]) {
    found[0] = ABI, found[1] = sizeof(Library), found[2] = sizeof(Chain), found[3] = sizeof(Job);
}
