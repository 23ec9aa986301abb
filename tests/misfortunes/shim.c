/* Faults for one process, by LD_PRELOAD: a disk that fails, a disk that fills, a disk that forgets, a clock that jumps.

   The file named by FAULTS_CONTROL holds a struct control. It is mapped into the process and into the test, which may
   change it at any time. Faults strike the files whose path contains `pattern`.

   FAULTS_IMAGE names a folder with what the disk itself holds of those files, for one process at a time. A successful
   flush brings there the pages written since the last one. A failed flush forgets them, as Linux does: they stay
   readable in memory, count as clean, and are never written. After a power cut the image is all that is left. Which
   pages wait for a flush is kept beside it in `*.unflushed`, and outlives the process, as the system's memory does. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES (1 << 16)
#define FILES 8
#define NAME 256

struct control {
    char pattern[NAME];  /* part of the paths that are struck; empty for none */
    int32_t sync_error;  /* errno of flushes */
    int32_t sync_odds;   /* so many of 1000 flushes fail */
    int32_t write_error; /* errno of writes */
    int32_t write_odds;  /* so many of 1000 writes fail */
    int32_t failed_syncs;
    int32_t failed_writes;
    int64_t clock_offset; /* nanoseconds by which the wall clock is wrong */
};

struct unflushed {
    char path[NAME];
    uint8_t *pages;
};

static struct control healthy;
static struct control *control = &healthy;
static const char *image;
static struct unflushed unflushed[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t dice = 88172645463325252ULL;

#define REAL(name)                                                                                                     \
    ({                                                                                                                 \
        static __typeof__(&name) real;                                                                                 \
        if (!real)                                                                                                     \
            real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                                         \
        real;                                                                                                          \
    })

__attribute__((constructor)) static void prepare(void) {
    image = getenv("FAULTS_IMAGE");
    dice ^= (uint64_t)getpid() << 17;
    const char *path = getenv("FAULTS_CONTROL");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        control = mapped;
    close(file);
}

static int struck_path(const char *path) {
    return control->pattern[0] && strstr(path, control->pattern) != NULL;
}

static int struck(int file, char *path) {
    char link[64];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = control->pattern[0] ? readlink(link, path, NAME - 1) : -1;
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return struck_path(path);
}

static int unlucky(int odds) {
    pthread_mutex_lock(&lock);
    dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
    int drawn = (int)(dice % 1000);
    pthread_mutex_unlock(&lock);
    return drawn < odds;
}

/* -- what the disk holds */

static void image_of(const char *path, const char *suffix, char *copy) {
    snprintf(copy, 2 * NAME, "%s/%s%s", image, strrchr(path, '/') + 1, suffix);
}

static uint8_t *pages_of(const char *path) {
    char name[2 * NAME];
    int i = 0;
    while (unflushed[i].pages && strcmp(unflushed[i].path, path) != 0)
        if (++i == FILES)
            abort();
    if (!unflushed[i].pages) {
        image_of(path, ".unflushed", name);
        int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || REAL(ftruncate64)(file, PAGES) < 0)
            abort();
        unflushed[i].pages = mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (unflushed[i].pages == MAP_FAILED)
            abort();
        strncpy(unflushed[i].path, path, NAME - 1);
        close(file);
    }
    return unflushed[i].pages;
}

static void note_written(const char *path, off_t at, ssize_t size) {
    if (!image || !path[0] || size <= 0)
        return;
    pthread_mutex_lock(&lock);
    uint8_t *pages = pages_of(path);
    for (off_t page = at / PAGE; page <= (at + size - 1) / PAGE && page < PAGES; page++)
        pages[page] = 1;
    pthread_mutex_unlock(&lock);
}

static void flush_to_image(int file, const char *path, int forget) {
    char copy[2 * NAME], content[PAGE];
    pthread_mutex_lock(&lock);
    uint8_t *pages = pages_of(path);
    image_of(path, "", copy);
    int disk = open(copy, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat facts;
    if (disk < 0 || fstat(file, &facts) < 0)
        abort();
    for (off_t page = 0; page < PAGES; page++) {
        if (pages[page] && !forget) {
            ssize_t size = pread(file, content, PAGE, page * PAGE);
            if (size > 0 && REAL(pwrite64)(disk, content, size, page * PAGE) != size)
                abort();
        }
        pages[page] = 0;
    }
    if (!forget && REAL(ftruncate64)(disk, facts.st_size) < 0)
        abort();
    close(disk);
    pthread_mutex_unlock(&lock);
}

/* -- files */

static int refuses_write(int file, char *path) {
    int odds = control->write_error ? control->write_odds : 0;
    if (!(odds || image) || !struck(file, path)) {
        path[0] = 0;
        return 0;
    }
    if (!unlucky(odds))
        return 0;
    __sync_fetch_and_add(&control->failed_writes, 1);
    errno = control->write_error;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) {
    char path[NAME];
    if (refuses_write(file, path))
        return -1;
    off_t at = path[0] ? lseek(file, 0, SEEK_CUR) : 0;
    note_written(path, at, size); /* before as well: the process may be killed at once after the write */
    ssize_t done = REAL(write)(file, data, size);
    note_written(path, at, done);
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    char path[NAME];
    if (refuses_write(file, path))
        return -1;
    note_written(path, at, size);
    ssize_t done = REAL(pwrite64)(file, data, size, at);
    note_written(path, at, done);
    return done;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return pwrite64(file, data, size, at);
}

static int flushed(int file, int (*really)(int)) {
    char path[NAME];
    int odds = control->sync_error ? control->sync_odds : 0;
    if (!(odds || image) || !struck(file, path))
        return really(file);
    if (unlucky(odds)) {
        __sync_fetch_and_add(&control->failed_syncs, 1);
        if (image)
            flush_to_image(file, path, 1);
        errno = control->sync_error;
        return -1;
    }
    int done = really(file);
    if (image && done == 0)
        flush_to_image(file, path, 0);
    return done;
}

int fsync(int file) {
    return flushed(file, REAL(fsync));
}

int fdatasync(int file) {
    return flushed(file, REAL(fdatasync));
}

int unlink(const char *path) {
    char copy[2 * NAME];
    int done = REAL(unlink)(path);
    if (done == 0 && image && strchr(path, '/') && struck_path(path)) {
        image_of(path, "", copy);
        REAL(unlink)(copy);
        pthread_mutex_lock(&lock);
        memset(pages_of(path), 0, PAGES);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

/* -- the wall clock */

static void put_off(struct timespec *moment) {
    int64_t at = (int64_t)moment->tv_sec * 1000000000 + moment->tv_nsec + control->clock_offset;
    moment->tv_sec = at / 1000000000;
    moment->tv_nsec = at % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *moment) {
    int done = REAL(clock_gettime)(clock, moment);
    if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        put_off(moment);
    return done;
}

int gettimeofday(struct timeval *moment, void *zone) {
    (void)zone;
    struct timespec exact;
    int done = clock_gettime(CLOCK_REALTIME, &exact);
    moment->tv_sec = exact.tv_sec;
    moment->tv_usec = exact.tv_nsec / 1000;
    return done;
}

time_t time(time_t *moment) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (moment)
        *moment = exact.tv_sec;
    return exact.tv_sec;
}
