/* Structures are packed from here (compilers without an attribute for it). */
#pragma pack(push, 1)
