/* What the parts of the load share: ports, sockets, threads, time. */
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>

enum { ECHO_PORT = 7101, BULK_PORT = 7102, UDP_PORT = 7103, DNS_PORT = 53 };

extern struct in_addr load_address;

void die(const char *what) __attribute__((noreturn));
double now(void);
struct sockaddr_in at(int port);
void set(int fd, int level, int name, int value);
/* How long recv may take. */
void limit(int fd, double seconds);
int listen_at(int port);
int dial(int port);
/* Bound to a port of the address; 0: to none. */
int udp_socket(int port);
/* Run something in a thread of its own. */
void start(void *(*run)(void *), void *argument);

/* Servers, for the descriptor that they are given. */
void *serve_bulk(void *listener);
void *serve_echo(void *listener);
void *serve_udp(void *fd);
void *serve_dns(void *fd);

/* Clients, see load.c. */
void bulk(const char *way, int count, double seconds);
void ping(int count, double seconds);
void connect_rate(int at_once, int count, double seconds);
void hold(int count);
void udp(const char *way, double rate, double seconds);
void dns(int at_once, double seconds);

#endif
