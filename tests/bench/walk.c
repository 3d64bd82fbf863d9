/* The floor of every comparison: getdents64 and statx of a whole tree, one thread. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long seen;

static void walk(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	while ((entry = readdir(dir)) != NULL) {
		struct statx st;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		seen++;
		if (statx(fd, entry->d_name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) == 0 &&
		    S_ISDIR(st.stx_mode))
			walk(fd, entry->d_name);
	}
	closedir(dir);
}

int main(int argc, char **argv)
{
	walk(AT_FDCWD, argc > 1 ? argv[1] : ".");
	printf("%ld\n", seen);
	return 0;
}
